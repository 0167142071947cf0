"""Attention: its forms agree, are chosen by rule or a clear margin, and are passed over where they do not run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from mage_kernels import attention, attention_choice, choose_attention
from mage_kernels.attention_choice import fastest_form
from mage_kernels.dropout import keep_mask, keep_scale

from tests import build


@pytest.mark.parametrize("width", [48, 64, 7])
@pytest.mark.parametrize("length", [1, 9, 129])
@pytest.mark.parametrize("form", ["sdpa", "matmul"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_forms_agree_forward_and_backward(width: int, length: int, form: str, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, length, width, generator=random, dtype=torch.float64) for _ in range(3)]
    wide = [value.clone().requires_grad_() for value in inputs]
    attention(*wide, implementation="reference").square().sum().backward()
    plain_error = _errors(_plain, inputs, wide, dtype)
    for ours, theirs in zip(
        _errors(partial(attention, implementation=form), inputs, wide, dtype), plain_error, strict=True
    ):
        assert ours <= max(2 * theirs, 2e-5)  # the floor is for gradients that are 0 but for rounding


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention as published under autocast: float32 logits, weights and their gradients in the dtype."""
    logits = (query.float() * query.shape[-1] ** -0.5) @ key.float().mT
    return logits.softmax(dim=-1).to(value.dtype) @ value


def _errors(
    form: Callable[..., torch.Tensor], inputs: list[torch.Tensor], wide: list[torch.Tensor], dtype: torch.dtype
) -> list[float]:
    """Errors of output and gradients, relative to their norm (gradients that cancel: to the inputs' size)."""
    cast = [value.to(dtype).requires_grad_() for value in inputs]
    output = form(*cast)
    output.square().sum().backward()
    wanted = attention(*wide, implementation="reference").detach()
    pairs = [(output.detach(), wanted), *((ours.grad, ref.grad) for ours, ref in zip(cast, wide, strict=True))]
    scale = inputs[0].norm()
    return [float((a.double() - b).norm() / torch.maximum(b.norm(), 0.1 * scale)) for a, b in pairs]


def test_attention_refuses_an_unknown_form() -> None:
    q = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="implementation: 'flash9'"):
        attention(q, q, q, implementation="flash9")
    with pytest.raises(ValueError, match="backend: 'cuda'"):
        choose_attention("cuda", torch.device("cpu"), torch.float32, (1, 1, 4, 4), 0.0)


def test_attention_choice_is_measured_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    cpu = torch.device("cpu")
    choice = fastest_form(("sdpa", "matmul"), cpu, torch.float32, (4, 2, 9, 16), 0.1)
    assert choice.implementation in ("sdpa", "matmul") and "ms" in choice.reason
    assert torch.equal(before, torch.random.get_rng_state())
    assert choose_attention("torch", torch.device("cpu"), torch.float32, (4, 2, 9, 16), 0.1).implementation == "sdpa"


def test_attention_has_a_form_for_each_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """One where gradients are computed, one where they are not; a single choice means both."""
    from mage_kit.layers import blocks

    seen: list[str] = []
    original = blocks.attention

    def spy(*inputs: torch.Tensor, dropout: float, implementation: str) -> torch.Tensor:
        seen.append(implementation)
        return original(*inputs, dropout=dropout, implementation=implementation)  # type: ignore[arg-type]

    monkeypatch.setattr(blocks, "attention", spy)
    model = build.mage().eval()
    ids = build.tokens(model, 2)
    for chosen, expected in ((("matmul", "sdpa"), {"sdpa"}), (("matmul",), {"matmul"})):
        model.set_attention(*chosen)
        seen.clear()
        with torch.no_grad():
            model.logits(ids, torch.ones_like(ids, dtype=torch.bool))
        assert set(seen) == expected
        seen.clear()
        model.logits(ids, torch.ones_like(ids, dtype=torch.bool))
        assert set(seen) == {"matmul"}


def test_attention_weights_are_dropped_alike_forward_and_backward() -> None:
    """Against the formula with the mask spelt out, in float64."""
    random = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 3, 9, 8, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    torch.manual_seed(7)
    found = attention(*leaves, dropout=0.3, implementation="matmul")
    torch.manual_seed(7)
    query, key, value = leaves
    weights = ((query @ key.mT) * 8**-0.5).softmax(dim=-1)
    kept = keep_mask(weights, 0.3).neg().double() * keep_scale(0.3)
    assert 0.2 < float((kept == 0).double().mean()) < 0.4
    wanted = (weights * kept) @ value
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(wanted.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_attention_without_gradients_is_the_same_image_by_image() -> None:
    inputs = [torch.randn(3, 2, 17, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with torch.no_grad():
        alone = attention(*inputs, implementation="matmul")
    together = attention(*(value.requires_grad_() for value in inputs), implementation="matmul")
    torch.testing.assert_close(alone, together.detach())


def test_xformers_is_given_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """(B, N, H, d) there. Its operators refuse CPU tensors: a plain one in its place tells the layout."""
    ops = pytest.importorskip("xformers.ops")
    seen = []

    def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, p: float) -> torch.Tensor:
        seen.append((query.shape, p))
        swapped = (part.transpose(1, 2) for part in (query, key, value))
        return attention(*swapped, implementation="reference").transpose(1, 2)

    inputs = [torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with pytest.raises(ValueError, match="attention: 'xformers', cannot run"):
        attention(*inputs, implementation="xformers")
    monkeypatch.setattr(ops, "memory_efficient_attention", plain)
    torch.testing.assert_close(
        attention(*inputs, dropout=0.1, implementation="xformers"), attention(*inputs, implementation="reference")
    )
    assert seen == [((2, 9, 3, 8), 0.1)]


@pytest.mark.parametrize("seconds", [(1.0, 0.84), (1.0, 0.99), (1.0, 1.5)])
def test_a_clock_chooses_by_a_clear_margin_alone(seconds: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    times = dict(zip(("sdpa", "matmul"), seconds, strict=True))
    monkeypatch.setattr(attention_choice, "_seconds", lambda form, *words: times[form])
    choice = fastest_form(("sdpa", "matmul"), torch.device("cpu"), torch.float32, (4, 2, 9, 16), 0.1)
    assert choice.implementation == "sdpa" and "matmul" in choice.reason
    times["matmul"] = 0.8
    choice = fastest_form(("sdpa", "matmul"), torch.device("cpu"), torch.float32, (4, 2, 9, 16), 0.1)
    assert choice.implementation == "matmul"


def test_on_a_cpu_it_follows_a_rule() -> None:
    """Runs of one recipe on one machine chose otherwise by the clock, and ended in other bits."""
    cpu, shape = torch.device("cpu"), (64, 2, 17, 16)
    assert choose_attention("auto", cpu, torch.float32, shape, 0.1).implementation == "matmul"
    assert choose_attention("auto", cpu, torch.float32, shape, 0.0).implementation == "sdpa"
    assert choose_attention("auto", cpu, torch.bfloat16, (4, 12, 1025, 64), 0.0).implementation == "sdpa"
    assert all("by rule" in choose_attention("auto", cpu, torch.float32, shape, rate).reason for rate in (0.0, 0.1))


def test_a_form_that_does_not_run_is_passed_over_with_its_reason() -> None:
    choice = fastest_form(("sdpa_cudnn", "sdpa"), torch.device("cpu"), torch.float32, (2, 2, 9, 8), 0.0)
    assert choice.implementation == "sdpa" and "sdpa_cudnn does not run (ValueError: " in choice.reason


def test_float32_inputs_under_autocast_stay_what_they_are() -> None:
    """As from a norm on queries and keys; backward runs outside autocast."""
    random = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 2, 9, 8, generator=random, requires_grad=True) for _ in range(3)]
    wanted = attention(*leaves, implementation="reference")
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*leaves, implementation="matmul")
        mixed = attention(leaves[0], leaves[1], leaves[2].bfloat16(), implementation="matmul")
    assert found.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(wanted.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    mixed.sum().backward()


def test_where_no_form_runs_every_reason_is_told() -> None:
    with pytest.raises(ValueError, match=r"attention: no form runs on cpu .*sdpa_cudnn does not run"):
        fastest_form(("sdpa_cudnn",), torch.device("cpu"), torch.float32, (2, 2, 9, 8), 0.0)
