"""The whole model as one graph, and passes that read nothing back: what compilers and CUDA graphs ask for."""

from __future__ import annotations

import pytest
import torch

import mage_kit as mk
from mage_kit.generation.loop import _keep_best
from mage_kit.generation.sampling import draw_tokens
from mage_kit.losses import BatchMasks
from mage_kit.training.clipping import clip_divisor, gradient_norm
from mage_kit.training.verdicts import skips
from tests import build


def contrastive(**options: object) -> mk.Mage:
    losses = [mk.MaskedCrossEntropy(), mk.InfoNCE(32, hidden=16, output=8)]
    return build.mage(losses=losses, mask_ratio=mk.UniformRatio(low=0.5, high=0.6), **options)


@pytest.mark.parametrize("kind", ["masked", "contrast"])
def test_training_and_logits_are_one_graph_each(kind: str) -> None:
    """No break, forward and backward; the values of the plain pass."""
    model = (build.mage(dropout=0.0) if kind == "masked" else contrastive(dropout=0.0)).train()
    ids, ratio_B = build.tokens(model, 4), torch.full((4,), 0.55, dtype=torch.float64)
    plan = model.plan(ratio_B, torch.rand(4, 16))
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1 if kind == "masked" else 2)
    torch.compiler.reset()
    values = []
    for forward in (model.forward, torch.compile(model.forward, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        total = sum(term.total for term in forward(ids, plan, masks).terms)
        total.backward()
        values.append([total.detach(), *(part.grad for _, part in model.trainable())])
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    masked = torch.ones(4, 16, dtype=torch.bool)
    with torch.no_grad():
        compiled = torch.compile(model.logits, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(ids, masked), model.logits(ids, masked))


def test_a_tokenizer_reads_nothing_back() -> None:
    """On the meta device, where every read-back raises."""
    tokenizer = build.vqgan(grid=(8, 8)).to("meta")
    images = torch.rand(2, tokenizer.channels, *tokenizer.image_size, device="meta")
    with torch.no_grad():
        ids = tokenizer.encode(images)
        assert ids.shape == (2, 64) and tokenizer.decode(ids).shape == images.shape


@pytest.mark.parametrize("kind", ["masked", "contrast"])
def test_training_reads_nothing_back(kind: str) -> None:
    """Forward, backward and clipping on the meta device, where every read-back raises."""
    model = (build.mage() if kind == "masked" else contrastive()).train()
    ratio_B = torch.full((4,), 0.55, dtype=torch.float64)
    ids = build.tokens(model, 4).to("meta")
    plan = model.plan(ratio_B, torch.rand(4, 16).to("meta"))
    model = model.to("meta")
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 1 if kind == "masked" else 2)
    names = dict(model.trainable())
    output = model(ids, plan, masks)
    sum(term.total for term in output.terms).backward()
    norm = gradient_norm(names.values())
    assert norm.device.type == "meta" and all(value.grad is not None for value in names.values())
    assert clip_divisor(norm, 3.0).shape == skips(norm).shape == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("known", [0, 7])
def test_decoding_reads_nothing_back_until_its_end(known: int) -> None:
    model = build.mage().eval().to("meta")
    plan = model.decoding.changed({"steps": 3})
    ids = torch.zeros(2, 16, dtype=torch.int64, device="meta")
    masked = (torch.arange(16) >= known).expand(2, 16).to("meta")
    unknown, noise = masked.sum(dim=1), torch.rand(2, 16, device="meta")
    with torch.no_grad():
        for step in range(1, 4):
            draw = draw_tokens(model, plan, step, ids, masked, noise, None, step == 1 and not known, None, None)
            ids, masked, flags = _keep_best(model, plan, step, ids, masked, unknown, noise, draw)
    assert flags.shape == (2,) and ids.shape == (2, 16) and masked.dtype == torch.bool
