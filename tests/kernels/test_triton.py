"""The Triton kernels, interpreted where there is no GPU: against float64, odd shapes, poison, ties, operators.

The rule for rounding: the error against a float64 reference is at most twice that of plain torch in the same dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mage_kernels import embed_kept, make_plan, pad_tokens, remask, sample_tokens
from torch import Tensor

from mage_kit.base.draws import keys, uniforms

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 4, 8), (3, 9, 48), (2, 35, 100), (18, 5, 8)]  # images, tokens, width


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds NaN: what a kernel forgets to write is seen."""
    empty = torch.empty

    def poison(*arguments: Any, **keywords: Any) -> Tensor:
        made = empty(*arguments, **keywords)
        return made.fill_(torch.nan) if made.is_floating_point() and made.device.type != "meta" else made

    monkeypatch.setattr(torch, "empty", poison)


def parts(shape: tuple[int, int, int], seed: int = 0) -> dict[str, Tensor]:
    """A plan's indices and float64 tensors of the given sizes; the mask row is hot."""
    batch, length, width = shape
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(length // 2, length + 1, (batch,), generator=random)
    plan = make_plan(torch.rand(batch, length, generator=random), counts, length // 2)
    ids = torch.randint(7, (batch, length), generator=random)
    rows = torch.nn.functional.pad(torch.where(plan.masked_BL, 7, ids), (1, 0), value=8)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, dtype=torch.float64)

    return {
        "rows": rows,
        "kept": plan.kept_BS,
        "slot": torch.where(plan.visible_BN, plan.slot_BN, 0),
        "table": normal(9, width),
        "positions": normal(length + 1, width),
        "weight": normal(width),
        "bias": normal(width),
        "latents": normal(batch, plan.kept_BS.shape[1], width),
        "fill": normal(width),
    }


def errors(run: Callable[..., Tensor], wide: list[Tensor], dtype: torch.dtype, backend: str) -> list[float]:
    """Errors of the output and of every gradient against float64, relative to the norm."""
    found = []
    results = []
    for precision, implementation in ((torch.float64, "torch"), (dtype, backend)):
        leaves = [value.detach().to(DEVICE, precision, copy=True).requires_grad_() for value in wide]
        out = run(*leaves, implementation)
        weights = torch.arange(out.numel(), device=DEVICE, dtype=torch.float64).reshape(out.shape).cos()
        (out.double() * weights.to(out.device)).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for exact, ours in zip(*results, strict=True):
        found.append(float((ours.double() - exact).norm() / exact.norm().clamp_min(1e-9)))
    return found


def hold(run: Callable[..., Tensor], wide: list[Tensor], dtype: torch.dtype) -> None:
    plain, ours = (errors(run, wide, dtype, implementation) for implementation in ("torch", "triton"))
    floor = 1e-6 if dtype == torch.float32 else 4e-3
    for place, (theirs, mine) in enumerate(zip(plain, ours, strict=True)):
        assert mine <= max(2 * theirs, floor), f"result {place}: {mine} against {theirs}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("hot", [7, -1])
def test_embed_kept(shape: tuple[int, int, int], dtype: torch.dtype, norm: bool, hot: int) -> None:
    given = parts(shape)
    rows, kept = given["rows"].to(DEVICE), given["kept"].to(DEVICE)

    def run(table: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        *affine, implementation = rest
        own = (*affine, 1e-6) if norm else None
        return embed_kept(rows, kept, table, positions, own, hot_row=hot, backend=implementation)

    names = ["table", "positions", *(["weight", "bias"] if norm else [])]
    hold(run, [given[name] for name in names], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", [True, False])
def test_pad_tokens(shape: tuple[int, int, int], dtype: torch.dtype, fill: bool) -> None:
    """What the encoder made of masked tokens is read by no position: its gradient is 0, not what lay there."""
    given = parts(shape)
    slot = given["slot"].to(DEVICE)
    unread = torch.ones(given["latents"].shape[:2], dtype=torch.bool).scatter_(1, given["slot"], False)
    assert bool(unread.any()) or shape[1] < 9

    def run(latents: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        return pad_tokens(latents, slot, positions, rest[0] if fill else None, backend=rest[-1])

    hold(run, [given[name] for name in ("latents", "positions", *(["fill"] if fill else []))], dtype)
    latents = given["latents"].to(DEVICE, dtype).requires_grad_()
    run(latents, given["positions"].to(DEVICE), given["fill"].to(DEVICE), "triton").sum().backward()
    assert latents.grad is not None and float(latents.grad[unread.to(DEVICE)].abs().sum()) == 0


def test_strided_parameters_are_read_where_they_lie() -> None:
    """A view with gaps as norm, bias or fill gives what its copy gives."""
    given = {name: value.to(DEVICE) for name, value in parts((2, 9, 48)).items()}
    table, positions, latents = (given[name].float() for name in ("table", "positions", "latents"))
    whole = [given[name].float() for name in ("weight", "bias", "fill")]
    gaps = [value.repeat_interleave(2)[::2] for value in whole]
    assert not any(value.is_contiguous() for value in gaps)
    results = []
    for weight, bias, fill in (whole, gaps):
        norm = (weight, bias, 1e-6)
        embedded = embed_kept(given["rows"], given["kept"], table, positions, norm, backend="triton")
        results.append((embedded, pad_tokens(latents, given["slot"], positions, fill, backend="triton")))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_ordered_gradients_are_those_of_the_atomic_ones() -> None:
    given = parts((2, 9, 48))
    results = []
    for ordered in (False, True):
        torch.use_deterministic_algorithms(ordered)
        try:
            table = given["table"].float().to(DEVICE).requires_grad_()
            positions = given["positions"].float().to(DEVICE)
            out = embed_kept(given["rows"].to(DEVICE), given["kept"].to(DEVICE), table, positions, hot_row=7,
                             backend="triton")  # fmt: skip
            out.square().sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        results.append(table.grad)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("codes", [1, 5, 1024, 9000])
def test_samples_agree_with_the_reference(codes: int) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 9, codes, generator=random)
    uniform = torch.rand(2, 9, generator=random, dtype=torch.float64)
    masked = torch.rand(2, 9, generator=random) < 0.6
    poisoned = logits.clone()
    poisoned[~masked] = torch.nan  # logits of known positions are never read
    for source in (logits, poisoned, poisoned.repeat(1, 1, 2)[..., :codes]):  # the last with strides
        ids, log_p = sample_tokens(source.to(DEVICE), uniform.to(DEVICE), masked.to(DEVICE), backend="triton")
        wanted, wanted_p = sample_tokens(logits, uniform, masked, backend="reference")
        assert torch.equal(ids.cpu()[masked], wanted[masked])
        torch.testing.assert_close(log_p.cpu()[masked], wanted_p[masked], atol=1e-5, rtol=1e-5)
        assert not bool(log_p.cpu()[~masked].any())
    plain, _ = sample_tokens(logits, uniform, masked, backend="torch")
    assert torch.equal(plain[masked], wanted[masked])


@pytest.mark.slow
def test_samples_follow_the_distribution() -> None:
    """Chi-square with 7 degrees of freedom: 24.3 is passed once in a thousand by chance; the seed is fixed."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf, 0.5, -3.0, 1.5, 0.0])
    count = 3000 if DEVICE.type == "cpu" else 40_000
    uniform = uniforms(keys(3, "test", torch.arange(1)), count)
    ids, _ = sample_tokens(logits.expand(1, count, -1).contiguous().to(DEVICE), uniform.to(DEVICE), backend="triton")
    seen = torch.bincount(ids.flatten().cpu(), minlength=9).double()
    probability = logits.softmax(0)
    assert seen[4] == 0
    used = probability > 0
    assert ((seen - count * probability)[used] ** 2 / (count * probability[used])).sum() < 24.3


def test_extreme_uniforms_and_bad_logits() -> None:
    logits = torch.full((1, 2, 1000), -torch.inf)
    logits[..., 5], logits[..., 9] = 0.0, -1.0
    edge = torch.tensor([[1e-300, 1 - 2.0**-53]], dtype=torch.float64)
    assert sample_tokens(logits.to(DEVICE), edge.to(DEVICE), backend="triton")[0].tolist() == [[5, 9]]
    for bad in (torch.nan, torch.inf):
        logits[0, 1, 7] = bad
        with pytest.raises(ValueError, match="logits: not finite"):
            sample_tokens(logits.to(DEVICE), edge.to(DEVICE), backend="triton")
    with pytest.raises(ValueError, match="logits: not finite"):
        sample_tokens(torch.full((1, 2, 4), -torch.inf, device=DEVICE), edge.to(DEVICE), backend="triton")


@pytest.mark.parametrize("scores", ["random", "tied", "nan", "inf", "minus inf", "mixed"])
@pytest.mark.parametrize("length", [1, 35, 256])
def test_remask_agrees_with_the_reference(scores: str, length: int) -> None:
    random = torch.Generator().manual_seed(0)
    score = torch.rand(7, length, generator=random)
    values = {"tied": 0.5, "nan": torch.nan, "inf": torch.inf, "minus inf": -torch.inf}
    if scores in values:
        score = torch.full_like(score, values[scores])
    if scores == "mixed":
        score = torch.tensor([0.5, torch.nan, torch.inf, -torch.inf, 0.1])[
            torch.randint(5, score.shape, generator=random)
        ]
    masked = torch.rand(7, length, generator=random) < 0.6
    masked[0], masked[1] = True, False
    masked[1, 0] = True
    total = masked.sum(1)
    count = torch.stack([total[0], total[1], total[2] * 0, total[3].clamp_max(1), total[4] // 2, total[5], total[6]])
    after = remask(score.to(DEVICE), masked.to(DEVICE), count.to(DEVICE), backend="triton").cpu()
    assert torch.equal(after.sum(1), count) and not bool((after & ~masked).any())
    for other in ("reference", "torch"):
        assert torch.equal(after, remask(score, masked, count, backend=other)), other


# -- operators -------------------------------------------------------------------------------------------------


def operator_calls() -> list[tuple[Any, tuple[Any, ...]]]:
    from mage_kernels.triton import embed_kernel as embed_op
    from mage_kernels.triton import pad_kernel as pad_op
    from mage_kernels.triton import remask_kernel as remask_op
    from mage_kernels.triton import sample_kernel as sample_op

    given = {name: value.to(DEVICE) for name, value in parts((2, 9, 16)).items()}
    wide = {name: value.float() for name, value in given.items() if value.is_floating_point()}
    leaves = {name: value.clone().requires_grad_() for name, value in wide.items()}
    logits, uniform = torch.randn(2, 3, 8, device=DEVICE), torch.rand(2, 3, device=DEVICE)
    masked = torch.ones(2, 3, dtype=torch.bool, device=DEVICE)
    embed = (given["rows"], given["kept"], leaves["table"], leaves["positions"])
    return [
        (embed_op.embed_kept, (*embed, leaves["weight"], leaves["bias"], 1e-6, 7)),
        (embed_op.embed_kept, (*embed, None, None, 0.0, -1)),
        (pad_op.pad_tokens, (leaves["latents"], given["slot"], leaves["positions"], leaves["fill"])),
        (pad_op.pad_tokens, (leaves["latents"], given["slot"], leaves["positions"], None)),
        (sample_op.sample_tokens, (logits, uniform, masked)),
        (remask_op.remask, (uniform, masked, torch.tensor([1, 2], device=DEVICE))),
    ]


@pytest.mark.parametrize("number", range(6))
def test_opcheck(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its own tracing makes tensors of all kinds
    operator, arguments = operator_calls()[number]
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, arguments, test_utils=kinds)


def test_flops_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for operator, arguments in operator_calls():
        with FlopCounterMode(display=False) as counter:
            operator(*arguments)
        assert counter.get_total_flops() > 0, operator


def test_under_autocast_the_result_is_that_of_plain_torch() -> None:
    given = parts((2, 9, 16))
    rows, kept, slot = (given[name].to(DEVICE) for name in ("rows", "kept", "slot"))
    table, positions, latents = (given[name].float().to(DEVICE) for name in ("table", "positions", "latents"))
    norm = (given["weight"].float().to(DEVICE), given["bias"].float().to(DEVICE), 1e-6)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for name in ("triton", "torch"):
            assert embed_kept(rows, kept, table, positions, norm, backend=name).dtype == torch.float32
            assert pad_tokens(latents.bfloat16(), slot, positions, backend=name).dtype == torch.float32
