"""What every quantizer has to hold: those of the package, those written outside, and mutants that must fail."""

from __future__ import annotations

import torch
from torch import Tensor

import mage_kit as mk


def _features(part: mk.Quantizer) -> Tensor:
    return torch.randn(6, 16, part.width, generator=torch.Generator().manual_seed(0))


def quantizer(part: mk.Quantizer) -> None:
    """Ids name codes, an image's depend on it alone; training is straight through and leaves no trace."""
    _ids(part)
    _training(part)


def _ids(part: mk.Quantizer) -> None:
    features_BLW = _features(part).requires_grad_()
    ids = part.nearest(features_BLW)
    shape = (6, 16) if part.factors == 1 else (6, 16, part.factors)
    assert ids.dtype == torch.int64 and ids.shape == shape and not ids.requires_grad, "ids are no whole numbers (B, L)"
    assert 0 <= int(ids.min()) <= int(ids.max()) < part.codes, "ids name codes that there are not"
    assert len(ids.unique()) > 1, "all features are one code"
    assert torch.equal(ids, part.nearest(features_BLW)) and torch.equal(ids[2:3], part.nearest(features_BLW[2:3])), (
        "an image's ids depend on its batch"
    )
    codes_BLW = part.lookup(ids)
    assert codes_BLW.shape == features_BLW.shape and bool(torch.isfinite(codes_BLW).all())
    distance = (part.prepare(features_BLW) - codes_BLW).pow(2).mean()
    turned = (part.prepare(features_BLW) - codes_BLW.flip(0)).pow(2).mean()
    assert float(distance.detach()) < float(turned.detach()), "a feature's code is no nearer than another feature's"


def _training(part: mk.Quantizer) -> None:
    before = set(part.state_dict())
    part.start_training()
    features_BLW = _features(part).requires_grad_()
    out = part(features_BLW, 0.0, torch.Generator().manual_seed(0))
    assert isinstance(out, mk.Quantized) and out.loss.ndim == 0 and bool(torch.isfinite(out.loss))
    torch.testing.assert_close(out.codes_BLW, part.lookup(out.ids_BL), rtol=1e-5, atol=1e-5)
    assert not any(value.requires_grad for value in out.parts.values()), "parts for the log hold gradients"
    out.codes_BLW.sum().backward()
    assert features_BLW.grad is not None and float(features_BLW.grad.abs().sum()) > 0, (
        "no gradient reaches the features"
    )
    part.finish_training()
    assert set(part.state_dict()) == before, "training leaves something in the state"
