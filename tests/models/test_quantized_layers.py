"""torch's own dynamic quantization reaches every linear layer, and what it leaves undone is said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.generation import generation_precision
from mage_kit.store.folders import weights_digest
from tests import build

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


def quantized(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def stored_bytes(module: nn.Module) -> int:
    content = io.BytesIO()
    torch.save(module.state_dict(), content)
    return content.tell()


def wide(seed: int = 0) -> mk.Mage:
    torch.manual_seed(seed)
    return build.mage(
        encoder=mk.ViTEncoder(dim=128, depth=2, heads=4), decoder=mk.ViTDecoder(128, 16, dim=128, depth=1, heads=4)
    ).eval()


def test_all_linear_layers_are_replaced_and_used() -> None:
    model = wide()
    small = quantized(model)
    count = sum(isinstance(part, nn.Linear) for part in model.modules())
    replaced = [part for part in small.modules() if isinstance(part, torch.ao.nn.quantized.dynamic.Linear)]
    assert count == len(replaced) == 3 * 4 + 2, "three blocks, decoder.embed, head.fc"
    calls: list[nn.Module] = []
    for part in replaced:
        part.register_forward_hook(lambda layer, *_: calls.append(layer))
    ids, masked = build.tokens(model, 2), torch.rand(2, 16) < 0.5
    with torch.no_grad():
        wanted, found = model.logits(ids, masked), small.logits(ids, masked)
    assert len(calls) == len(replaced) and set(map(id, calls)) == set(map(id, replaced))
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-5 < error < 0.1, "eight bits round, and no more than that"
    assert stored_bytes(small) < 0.5 * stored_bytes(model)


def test_a_quantized_model_generates_and_sees_in_float32() -> None:
    small = quantized(wide())
    assert small.device == torch.device("cpu")
    drawn = mk.generate(small, 2, steps=2, seed=0)
    assert drawn.images_BCHW.shape == (2, 1, 16, 16) and bool(torch.isfinite(drawn.images_BCHW.float()).all())
    assert small.features(build.images(small, 2)).shape == (2, 128)
    assert generation_precision("auto", small).value == "float32"
    with pytest.raises(ValueError, match="precision: 'bfloat16', must be auto or float32: quantized"):
        generation_precision("bfloat16", small)


def test_samples_of_a_quantized_model_are_written_as_they_come(tmp_path: Path) -> None:
    """Their settings tell its weights from others."""
    small, other = quantized(wide()), quantized(wide(seed=1))
    out = mk.write_samples(small, 2, tmp_path / "x.npz", steps=2, reporter=Reporter.silent())
    assert np.load(out)["arr_0"].shape == (2, 16, 16, 1)
    assert weights_digest(small) == weights_digest(small) != weights_digest(other)
    assert weights_digest(small) != weights_digest(wide())


def test_a_classifier() -> None:
    encoder = mk.ViTEncoder(dim=128, depth=2, heads=4)
    classifier = mk.MageClassifier(tokenizer=build.vqgan(), encoder=encoder, classes=3).eval()
    small = quantized(classifier)
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert small.device == torch.device("cpu")
    found, wanted = small.logits(images), classifier.logits(images)
    assert found.shape == wanted.shape and not torch.equal(found, wanted)


def test_a_quantized_model_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match=r"model: its linear layers are quantized, .* save the one before"):
        mk.save(quantized(wide()), tmp_path / "small")
    assert not (tmp_path / "small").exists()
