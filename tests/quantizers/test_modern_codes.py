"""FSQ, LFQ, BSQ, IBQ, SimVQ and entropies: against tables of every code, written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.quantizers import assignments, soft_tables
from mage_kit.quantizers.assignments import assignment_gap, entropy_gap
from mage_kit.quantizers.signs import mean_shares
from mage_kit.quantizers.soft_tables import soft_means, soft_sums


def features(width: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(6, 16, width, generator=torch.Generator().manual_seed(seed))


def table(quantizer: mk.Quantizer) -> Tensor:
    return quantizer.lookup(torch.arange(quantizer.codes))


def train(quantizer: mk.Quantizer, values: Tensor) -> mk.Quantized:
    quantizer.start_training()
    return quantizer(values, 0.0, torch.Generator().manual_seed(0))


# -- FSQ -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 6, 5), (2,), (7, 5, 5, 5, 5), (3, 2)])
def test_fsq_has_every_combination_once_and_takes_the_nearest(levels: tuple[int, ...]) -> None:
    quantizer = mk.FSQ(levels=levels)
    codes_VW = table(quantizer)
    assert quantizer.codes == math.prod(levels) == len(codes_VW.unique(dim=0)) and quantizer.width == len(levels)
    assert [len(column.unique()) for column in codes_VW.T] == list(levels)
    values = features(len(levels), scale=3.0)
    steps = torch.tensor([level // 2 for level in levels])
    distances = torch.cdist((quantizer.prepare(values) * steps).flatten(0, 1).double(), (codes_VW * steps).double())
    assert torch.equal(quantizer.nearest(values).flatten(), distances.argmin(dim=1))
    wide = torch.linspace(-9, 9, 4001)[:, None].expand(-1, len(levels))
    ids = quantizer.nearest(wide[None])
    assert [len(column.unique()) for column in quantizer.lookup(ids)[0].T] == list(levels), "both ends are reached"


def test_fsq_keeps_zero_and_its_gradient_is_that_of_the_bound() -> None:
    quantizer, values = mk.FSQ(levels=(8, 5)), features(2).requires_grad_()
    torch.testing.assert_close(quantizer.prepare(torch.zeros(1, 2)), torch.zeros(1, 2), atol=1e-6, rtol=0)
    weights = torch.randn(6, 16, 2)
    (train(quantizer, values).codes_BLW * weights).sum().backward()
    again = values.detach().requires_grad_()
    (quantizer.prepare(again) * weights).sum().backward()
    torch.testing.assert_close(values.grad, again.grad)


def test_fsq_refuses_levels_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="levels"):
        mk.FSQ(levels=())
    with pytest.raises(ValueError, match=r"2\^31"):
        mk.FSQ(levels=(2**16, 2**16))


# -- signs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [mk.LFQ, mk.BSQ])
def test_signs_are_the_nearest_codes(kind: type[mk.LFQ] | type[mk.BSQ]) -> None:
    quantizer, values = kind(bits=6), features(6)
    prepared, codes_VW = quantizer.prepare(values), table(quantizer)
    assert len(codes_VW.unique(dim=0)) == 64
    torch.testing.assert_close(codes_VW.norm(dim=1), torch.full((64,), 1.0 if kind is mk.BSQ else 6**0.5))
    distances = torch.cdist(prepared.flatten(0, 1).double(), codes_VW.double())
    assert torch.equal(quantizer.nearest(prepared).flatten(), distances.argmin(dim=1))


@pytest.mark.parametrize("kind", [mk.LFQ, mk.BSQ])
@pytest.mark.parametrize(("bits", "temperature"), [(5, 1.0), (6, 0.3), (1, 2.0)])
def test_entropies_of_signs_are_those_of_all_codes(
    kind: type[mk.LFQ] | type[mk.BSQ], bits: int, temperature: float
) -> None:
    quantizer = kind(bits=bits, temperature=temperature)
    rows = quantizer.prepare(features(bits, scale=0.5)).double().requires_grad_()
    gap, perplexity = quantizer.gap(rows)
    shares_FV = torch.softmax(-torch.cdist(rows.flatten(0, 1), table(quantizer).double()).square() / temperature, dim=1)
    mean_V = shares_FV.mean(dim=0)
    by_hand = -(shares_FV * shares_FV.log()).sum(dim=1).mean() + (mean_V * mean_V.log()).sum()
    torch.testing.assert_close(gap, by_hand)
    torch.testing.assert_close(perplexity, (-(mean_V * mean_V.log()).sum()).exp())
    for one, other in zip(torch.autograd.grad(gap, rows), torch.autograd.grad(by_hand, rows), strict=True):
        torch.testing.assert_close(one, other)


def test_factors_are_ids_of_their_own() -> None:
    whole, parts, values = mk.LFQ(bits=6), mk.LFQ(bits=6, factors=2), features(6)
    assert parts.codes == 8 and parts.nearest(values).shape == (6, 16, 2)
    ids = parts.nearest(values)
    assert torch.equal(ids[..., 0] + 8 * ids[..., 1], whole.nearest(values))
    torch.testing.assert_close(parts.lookup(ids), whole.lookup(whole.nearest(values)))
    halves = [mk.LFQ(bits=3).gap(half)[0] for half in values.split(3, dim=-1)]
    torch.testing.assert_close(parts.gap(values)[0], (halves[0] + halves[1]) / 2)
    torch.testing.assert_close(parts.means(F.one_hot(ids, 8).float()), parts.lookup(ids))
    for bits, factors, words in ((6, 4, "divide"), (40, 2, "18")):
        with pytest.raises(ValueError, match=words):
            mk.LFQ(bits=bits, factors=factors)


def test_mean_shares_count_their_lowest_bit_first() -> None:
    odds = torch.tensor([[9.0, -9.0, -9.0], [9.0, -9.0, -9.0]]) * 10
    assert int(mean_shares(odds).argmax()) == 1


# -- entropies -----------------------------------------------------------------------------------------------------


def gap_of(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    codes = logits_RV.shape[1]
    return assignment_gap(logits_RV, torch.eye(codes, dtype=logits_RV.dtype), logits_RV.new_zeros(codes))


@pytest.mark.parametrize("rows", [2**22, 21, 7])
def test_tables_in_parts_have_the_gradients_of_whole_ones(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients against autograd's, of 10 features by 7 codes: all at once, three and one at a time."""
    monkeypatch.setattr(soft_tables, "ROWS", rows)
    random = torch.Generator().manual_seed(0)
    z, k, b, weights = (
        torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((10, 3), (7, 3), (7,), (10, 3))
    )
    leaves = [tensor.clone().requires_grad_() for tensor in (z, k, b)]
    logs = torch.log_softmax(leaves[0] @ leaves[1].T + leaves[2], dim=1)
    sure, shares = -(logs.exp() * logs).sum(), logs.exp().sum(dim=0)
    by_autograd = (sure, shares, *torch.autograd.grad(0.3 * sure + (shares * k[:, 0]).sum(), leaves))
    made_sure, made_shares = soft_sums(*leaves)
    got = (made_sure, made_shares, *torch.autograd.grad(0.3 * made_sure + (made_shares * k[:, 0]).sum(), leaves))
    for mine, theirs in zip(got, by_autograd, strict=True):
        torch.testing.assert_close(mine, theirs)
    means = torch.softmax(leaves[0] @ leaves[1].T, dim=1) @ k
    torch.testing.assert_close(soft_means(*leaves[:2]), means)
    mine, theirs = (
        torch.autograd.grad((each * weights).sum(), leaves[:2]) for each in (soft_means(*leaves[:2]), means)
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gap_is_zero_for_no_choice_and_minus_the_logarithm_for_all() -> None:
    nothing = torch.zeros(8, 8)
    torch.testing.assert_close(gap_of(nothing)[0], torch.tensor(0.0), atol=1e-6, rtol=0)
    sure = 100 * torch.eye(8)
    gap, perplexity = gap_of(sure)
    torch.testing.assert_close(gap, torch.tensor(-math.log(8)))
    torch.testing.assert_close(perplexity, torch.tensor(8.0))
    one_code = torch.zeros(8, 8)
    one_code[:, 3] = 100
    torch.testing.assert_close(gap_of(one_code)[0], torch.tensor(0.0))


def test_a_code_out_of_reach_leaves_gradients_finite() -> None:
    """Its share is exactly 0 in float32, and the gradient of 0 ln 0 is infinite as it stands."""
    logits = torch.zeros(4, 6)
    logits[:, 5] = -1000
    logits.requires_grad_()
    gap, _ = gap_of(logits)
    gap.backward()
    assert bool(logits.grad.isfinite().all()) and float(gap) == pytest.approx(0, abs=1e-6)


def test_the_mean_is_that_of_all_processes_and_its_gradient_is_averaged_by_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two halves of a batch, one as another process's; the mean of their gradients is that of the whole."""
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = logits.clone().requires_grad_()
    gap_of(whole)[0].backward()
    means = [torch.softmax(half, dim=1).mean(dim=0) for half in logits.chunk(2)]
    monkeypatch.setattr(assignments, "world", lambda: 2)
    monkeypatch.setattr(assignments, "add_up", lambda tensor: means[0] + means[1])
    grads = []
    for half in logits.chunk(2):
        own = half.clone().requires_grad_()
        shares = torch.softmax(own, dim=1)
        sure = -(shares * shares.log()).sum(dim=1).mean()
        gap, _ = entropy_gap(sure, shares.mean(dim=0))
        gap.backward()
        grads.append(own.grad / 2)  # as an engine of two takes the mean
    torch.testing.assert_close(torch.cat(grads), whole.grad)


@pytest.mark.parametrize("kind", [mk.GradientCodebook, mk.EMACodebook])
def test_a_codebooks_entropy_is_that_of_its_distances(kind: type[mk.GradientCodebook] | type[mk.EMACodebook]) -> None:
    quantizer, values = kind(codes=12, width=4, entropy=0.5, temperature=0.7, commitment=0.0), features(4)
    quantizer.embedding.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    codes_VW = quantizer.embedding.weight.detach().clone()
    if kind is mk.EMACodebook:
        quantizer.start_training()
        quantizer.updates += 1
        quantizer.sums_VW.copy_(codes_VW)
        quantizer.restart = 0.0
    made = quantizer(values, 0.0, torch.Generator().manual_seed(0))
    shares = torch.softmax(-torch.cdist(values.flatten(0, 1), quantizer.embedding.weight).square() / 0.7, dim=1)
    mean_V = shares.mean(dim=0)
    by_hand = -(shares * shares.log()).sum(dim=1).mean() + (mean_V * mean_V.log()).sum()
    torch.testing.assert_close(made.parts["entropy"], by_hand.detach(), rtol=1e-4, atol=1e-5)


# -- IBQ, SimVQ ----------------------------------------------------------------------------------------------------


def dense_ibq(z: Tensor, codes_VW: Tensor, beta: float, entropy: float, temperature: float) -> tuple[Tensor, Tensor]:
    """As the paper writes it, with one-hots."""
    logits = z.flatten(0, 1) @ codes_VW.T
    soft = torch.softmax(logits, dim=1)
    hard = F.one_hot(logits.argmax(dim=1), len(codes_VW)).to(z.dtype)
    zq = ((hard - soft.detach() + soft) @ codes_VW).view_as(z)
    zq2 = (hard @ codes_VW).view_as(z)
    shares = torch.softmax(logits / temperature, dim=1)
    gap = -(shares * shares.log()).sum(dim=1).mean() + (shares.mean(dim=0) * shares.mean(dim=0).log()).sum()
    loss = (zq - z).square().mean() + (zq2.detach() - z).square().mean() + beta * (zq2 - z.detach()).square().mean()
    return zq, loss + entropy * gap


@pytest.mark.parametrize("rows", [2**22, 12 * 10])
def test_ibq_is_the_papers_value_and_gradient(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tables, and ten rows at a time. The published code also lets p's gradient move C through p C, by value of
    one-hot h; here C gets h's alone, which is the same matrix."""
    monkeypatch.setattr(soft_tables, "ROWS", rows)
    quantizer = mk.IBQ(codes=12, width=4, temperature=0.5).double()
    quantizer.embedding.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    values, weights = features(4).double().requires_grad_(), torch.randn(6, 16, 4, dtype=torch.float64)
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # in double precision throughout
    made = train(quantizer, values)
    ((made.codes_BLW * weights).sum() + made.loss).backward()
    z, codes = values.detach().requires_grad_(), quantizer.embedding.weight.detach().clone().requires_grad_()
    zq, loss = dense_ibq(z, codes, quantizer.commitment, quantizer.entropy, 0.5)
    ((zq * weights).sum() + loss).backward()
    torch.testing.assert_close(made.codes_BLW, zq)
    torch.testing.assert_close(made.loss, loss)
    torch.testing.assert_close(values.grad, z.grad)
    torch.testing.assert_close(quantizer.embedding.weight.grad, codes.grad)
    assert float(quantizer.embedding.weight.grad.abs().sum(dim=1).min()) > 0, "a code that nobody chose learns too"


def test_simvq_moves_every_code_by_one_layer() -> None:
    quantizer, values = mk.SimVQ(codes=32, width=4), features(4).requires_grad_()
    frozen, before = quantizer.embedding.weight.detach().clone(), table(quantizer).detach()
    torch.testing.assert_close(frozen.std(), torch.tensor(0.5), rtol=0.2, atol=0)
    quantizer.requires_grad_(True)
    made = train(quantizer, values)
    (made.codes_BLW.square().mean() + made.loss).backward()
    assert quantizer.embedding.weight.grad is None and not quantizer.embedding.weight.requires_grad
    torch.optim.SGD([quantizer.projection.weight], 0.1).step()
    assert torch.equal(quantizer.embedding.weight, frozen)
    assert float((table(quantizer).detach() - before).abs().sum(dim=1).min()) > 0
