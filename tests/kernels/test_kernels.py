"""The plain-torch kernels: attention forms agree, samples follow their distribution, re-masking is exact."""

from __future__ import annotations

import math

import pytest
import torch
from mage_kernels import (
    drop_tokens,
    dropout,
    embed_kept,
    full_plan,
    gumbel,
    pad_tokens,
    remask,
    sample_tokens,
)

from mage_kit.base.draws import keys, uniforms
from mage_kit.optimizers import take_step
from mage_kit.training.clipping import clip_divisor, gradient_norm


def test_samples_follow_the_distribution() -> None:
    """Chi-square with 7 degrees of freedom: 24.3 is passed once in a thousand by chance; the seed is fixed."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf, 0.5, -3.0, 1.5, 0.0])
    probability = logits.softmax(0)
    count = 40_000
    uniform = uniforms(torch.tensor([3]), count)[0][None]
    ids, log_p = sample_tokens(logits.expand(1, count, -1), uniform)
    seen = torch.bincount(ids.flatten(), minlength=9).double()
    assert seen[4] == 0
    used = probability > 0
    chi = ((seen - count * probability)[used] ** 2 / (count * probability[used])).sum()
    assert chi < 24.3
    torch.testing.assert_close(log_p, logits.log_softmax(0)[ids])


def test_extreme_uniforms_stay_inside_the_support() -> None:
    logits = torch.full((1, 2, 1024), -torch.inf)
    logits[..., 5] = 0.0
    logits[..., 9] = -1.0
    ids, _ = sample_tokens(logits, torch.tensor([[1e-300, 1 - 2.0**-53]], dtype=torch.float64))
    assert ids.tolist() == [[5, 9]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_logit_raises(bad: float) -> None:
    logits = torch.zeros(1, 3, 8)
    logits[0, 1, 2] = bad
    with pytest.raises(ValueError, match="logits: not finite"):
        sample_tokens(logits, torch.full((1, 3), 0.5))


@pytest.mark.parametrize("scores", ["random", "tied", "nan", "inf", "minus inf"])
def test_remask_is_exact(scores: str) -> None:
    random = torch.Generator().manual_seed(0)
    score = torch.rand(7, 35, generator=random)
    values = {"tied": 0.5, "nan": torch.nan, "inf": torch.inf, "minus inf": -torch.inf}
    if scores in values:
        score = torch.full_like(score, values[scores])
    masked = torch.rand(7, 35, generator=random) < 0.6
    masked[0] = True
    masked[1] = False
    masked[1, 4] = True
    total = masked.sum(1)
    count = torch.stack([total[0], total[1], total[2] * 0, total[3] * 0 + 1, total[4] // 2, total[5] - 1, total[6]])
    after = remask(score, masked, count)
    assert torch.equal(after.sum(1), count) and not bool((after & ~masked).any())
    if scores == "random":
        kept = score.masked_fill(~masked | after, torch.inf).min(1).values
        lost = score.masked_fill(~after, -torch.inf).max(1).values
        assert bool((lost <= kept).all())


def test_gumbel_noise_is_finite_and_not_capped() -> None:
    edge = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    assert bool(torch.isfinite(gumbel(edge)).all()) and gumbel(edge)[1] > 30
    noise = gumbel(uniforms(torch.tensor([1]), 200_000)[0])
    assert abs(float(noise.mean()) - 0.5772) < 0.01 and abs(float(noise.var()) - 1.6449) < 0.03


def test_draws_are_uniform_independent_and_follow_their_key() -> None:
    index = torch.arange(2000)
    values = uniforms(keys(0, "mask", index, 3, 0), 50)
    assert values.dtype == torch.float64 and float(values.min()) > 0 and float(values.max()) < 1
    counts = torch.histc(values.float().flatten(), 20, 0, 1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # 19 degrees of freedom, one in a thousand
    correlation = torch.corrcoef(values.T)
    assert (correlation - torch.eye(50)).abs().max() < 0.12
    assert torch.equal(values[7:9], uniforms(keys(0, "mask", index[7:9], 3, 0), 50))
    for other in (keys(1, "mask", index, 3, 0), keys(0, "decode", index, 3, 0), keys(0, "mask", index, 4, 0)):
        assert not torch.equal(values, uniforms(other, 50))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_the_rate(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(401, 1001, requires_grad=True, dtype=dtype)
    y = dropout(x, rate)
    assert abs(float((y == 0).double().mean()) - rate) < 0.005
    assert abs(float(y.detach().double().mean()) - 1) < 0.01
    columns = (y == 0).double().mean(0)
    assert columns.std() < 0.04, "places in the row are not dropped alike"
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x, rate), y)


def test_embedding_before_or_after_the_gather_is_the_same() -> None:
    random = torch.Generator().manual_seed(0)
    table, positions = torch.randn(10, 6, generator=random), torch.randn(9, 6, generator=random)
    rows = torch.randint(10, (3, 9), generator=random)
    kept = torch.tensor([[0, 2, 5], [0, 1, 8], [0, 3, 4]])
    weight, bias = torch.randn(6, generator=random), torch.randn(6, generator=random)
    full = torch.nn.functional.layer_norm(table[rows] + positions, (6,), weight, bias, 1e-6)
    wanted = full.gather(1, kept[:, :, None].expand(-1, -1, 6))
    torch.testing.assert_close(embed_kept(rows, kept, table, positions, (weight, bias, 1e-6)), wanted)


def test_padding_places_every_latent_once_and_writes_everything() -> None:
    latents = torch.randn(2, 3, 4, requires_grad=True)
    slot = torch.tensor([[0, 1, 0, 2, 0], [0, 0, 0, 0, 0]])
    padded = pad_tokens(latents, slot, torch.zeros(5, 4))
    padded.sum().backward()
    assert latents.grad is not None
    assert latents.grad[:, :, 0].tolist() == [[3, 1, 1], [5, 0, 0]]
    fill = torch.full((4,), 7.0)
    filled = pad_tokens(latents, slot, torch.zeros(5, 4), fill)
    torch.testing.assert_close(filled[0, 0], latents[0, 0])
    assert (filled[0, [2, 4]] == 7).all() and (filled[1, 1:] == 7).all()


def test_full_plan_drops_nothing() -> None:
    masked = torch.tensor([[True, False, True], [False, False, False]])
    plan = full_plan(masked)
    assert plan.kept_BS.tolist() == [[0, 1, 2, 3]] * 2 and plan.slot_BN.tolist() == [[0, 1, 2, 3]] * 2
    assert plan.n_masked_B.tolist() == [2, 0] and plan.visible_BN.tolist() == [
        [False, False, True, False],
        [False, True, True, True],
    ]


@pytest.mark.parametrize("first", [0, 2])
def test_dropping_tokens_gives_each_row_its_own_gradient(first: int) -> None:
    """Whatever stands first; position 0 may come again and collects."""
    values = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[first, 5, 1], [first, 3, 4]])
    assert torch.autograd.gradcheck(lambda v: drop_tokens(v, index), [values])
    again = torch.tensor([[0, 0, 5], [0, 4, 0]])
    assert torch.autograd.gradcheck(lambda v: drop_tokens(v, again), [values])


@pytest.mark.parametrize("rate", [0.99999, 1 - 1e-9])
def test_dropping_nearly_everything_is_no_division_by_zero(rate: float) -> None:
    assert torch.isfinite(dropout(torch.ones(1000), rate)).all()


def test_clipping_scales_to_the_limit_and_tells_the_norm() -> None:
    leaves = [
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    for limit, scale in ((10.0, 1.0), (2.5, 0.5), (None, 1.0)):
        leaves[0].grad, leaves[1].grad = torch.tensor([3.0, 0, 0]), torch.tensor([0, 4.0])
        norm = gradient_norm(leaves)
        assert float(norm) == pytest.approx(5)
        optimizer = torch.optim.SGD(leaves, lr=0.0)
        take_step(optimizer, divisor=clip_divisor(norm, limit))
        assert leaves[0].grad[0] == pytest.approx(3 * scale, rel=1e-5)
        assert leaves[1].grad[1] == pytest.approx(4 * scale, rel=1e-5)
    leaves[0].grad = torch.tensor([torch.nan, 0, 0])
    assert math.isnan(gradient_norm(leaves))
