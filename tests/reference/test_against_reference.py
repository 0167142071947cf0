"""The model's masks and losses against the independent re-derivation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mage_kernels import MaskPlan, make_plan

import mage_kit as mk
from mage_kit.losses import BatchMasks, Gather, LossInputs
from tests import build
from tests.reference import masking


@pytest.mark.parametrize("length", [1, 2, 35, 256])
@pytest.mark.parametrize("noise", ["random", "ties", "bf16"])
def test_masks(length: int, noise: str) -> None:
    random = torch.Generator().manual_seed(length)
    values = torch.rand(5, length, generator=random)
    if noise == "ties":
        values = (values * 3).floor()
    elif noise == "bf16":
        values = values.bfloat16().float()
    ratios = [0.5, 0.55, 0.7, 0.93, 1.0]
    drop = 0.5 if length > 1 else 0.0
    n_dropped = int(np.ceil(drop * length))
    counts = torch.tensor([max(1, int(np.ceil(ratio * length))) for ratio in ratios])
    plan = make_plan(values, counts, n_dropped)
    for image, ratio in enumerate(ratios):
        masked, dropped, kept = masking.masks(values[image].numpy(), ratio, drop)
        assert plan.masked_BL[image].nonzero()[:, 0].tolist() == masked
        assert (plan.rank_BL[image] < n_dropped).nonzero()[:, 0].tolist() == dropped
        assert plan.kept_BS[image].tolist() == [0, *(token + 1 for token in kept)]
        source = torch.where(plan.visible_BN[image], plan.slot_BN[image], 0)
        assert source.tolist() == masking.padded_source(masked, kept, length)
    rows = [int(row) for row, weight in zip(plan.picked_M, plan.weight_M, strict=True) if weight]
    assert rows == plan.masked_BL.flatten().nonzero()[:, 0].tolist() and plan.total == len(rows)


def test_rows_are_padded_to_few_sizes() -> None:
    noise = torch.rand(4, 64)
    sizes = set()
    for count in range(32, 65):
        plan = make_plan(noise, torch.tensor([count, 32, 40, 64]), 32, rows_step=16)
        assert int(plan.weight_M.sum()) == plan.total == count + 136
        sizes.add(len(plan.picked_M))
    assert all(size % 16 == 0 for size in sizes) and len(sizes) <= 4


def test_counts_outside_the_drop_are_refused() -> None:
    with pytest.raises(ValueError, match="n_masked: 3 to 3"):
        make_plan(torch.rand(1, 16), torch.tensor([3]), 8)


def test_cross_entropy() -> None:
    model = build.mage(dropout=0.0).eval()
    ids = build.tokens(model, 6)
    ratio = torch.tensor([0.5, 0.51, 0.6, 0.75, 0.99, 1.0], dtype=torch.float64)
    noise = torch.rand(6, 16, generator=torch.Generator().manual_seed(4))
    plan = model.plan(ratio, noise)
    output = model(ids, plan, BatchMasks(ratio, plan.total, 1))
    latents = model.encoder.norm(model.encode(ids, plan))
    logits = model.head(model.decode(latents, plan), model.embedding).detach().numpy()
    losses = [
        masking.smoothed_cross_entropy(logits[image, token], int(ids[image, token]), 0.1)
        for image in range(6)
        for token in masking.masks(noise[image].numpy(), float(ratio[image]), 0.5)[0]
    ]
    assert output.terms[0].total.item() / len(losses) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("negatives", ["all", "cross_view"])
def test_info_nce(negatives: str) -> None:
    loss = mk.InfoNCE(8, hidden=16, output=4, negatives=negatives, gate=0.6)
    latents = torch.randn(10, 9, 8, generator=torch.Generator().manual_seed(0))
    ratio = torch.tensor([0.5, 0.6, 0.61, 0.59, 0.9] * 2, dtype=torch.float64)
    masks = BatchMasks(ratio, 40, 2)
    empty = torch.zeros(0)
    plan: MaskPlan = build.mage().plan(ratio, torch.rand(10, 16))
    term = loss(LossInputs(empty, empty, empty, latents, plan, masks, Gather()))
    projected = F.normalize(loss.projection(latents[:, 1:].mean(1)), dim=-1).detach().numpy().astype(np.float64)
    gate = [True, True, False, True, False]
    wanted = masking.info_nce(projected[:5], projected[5:], 0.2, gate, negatives == "cross_view")
    assert term.total.item() == pytest.approx(wanted, rel=1e-5)
    assert loss.count(masks) == 6


def test_info_nce_with_every_image_above_the_gate_is_zero_with_gradients() -> None:
    loss = mk.InfoNCE(8, hidden=16, output=4)
    latents = torch.randn(4, 5, 8, requires_grad=True)
    ratio = torch.full((4,), 0.9, dtype=torch.float64)
    plan = build.mage().plan(ratio, torch.rand(4, 16))
    empty = torch.zeros(0)
    masks = BatchMasks(ratio, 40, 2)
    loss(LossInputs(empty, empty, empty, latents, plan, masks, Gather())).total.backward()
    assert loss.count(masks) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in loss.parameters())


def test_masked_mse_normalises_each_patch() -> None:
    targets = torch.rand(7, 12) * 3
    predictions = torch.randn(7, 12)
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0, 0])
    empty = torch.zeros(0)
    ratio = torch.full((1,), 0.5, dtype=torch.float64)
    plan = build.mage().plan(ratio, torch.rand(1, 16))
    inputs = LossInputs(predictions, targets, weight, empty, plan, BatchMasks(ratio, 5, 1), Gather())
    values = targets.numpy().astype(np.float64)
    normal = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, ddof=1, keepdims=True) + 1e-6)
    wanted = ((predictions.numpy() - normal) ** 2).mean(1)[:5].sum()
    assert mk.MaskedMSE()(inputs).total.item() == pytest.approx(wanted, rel=1e-5)
    plain = ((predictions - targets) ** 2).mean(1)[:5].sum()
    torch.testing.assert_close(mk.MaskedMSE(normalize=False)(inputs).total, plain)
