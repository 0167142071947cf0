"""Which form of attention runs: by rule where a rule will do, else by running them at the real shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mage_kernels.attention import Implementation, attention, first_line


@dataclass(frozen=True)
class AttentionChoice:
    """What `choose_attention` decided, and why, in words."""

    implementation: Implementation
    reason: str


def choose_attention(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    dropout: float,
    gradients: bool = True,
) -> AttentionChoice:
    """Choose the form: on a CPU by rule, elsewhere by running it at the real shape, dtype and dropout.

    What runs faster than the first of the candidates counts only if it does so by a fifth: a clock must not choose
    another in a second run.

    Args:
        backend: "auto" to measure, "torch" for SDPA without measuring; a `mage_kernels.Backend`.
        device: Where the model runs.
        dtype: Dtype of queries, keys and values.
        shape: (B, H, N, d), of the images that are computed at once.
        dropout: Dropout on the attention weights.
        gradients: Whether the backward pass counts.

    Raises:
        ValueError: If the backend is unknown, or no form runs.
    """
    if backend == "torch":
        return AttentionChoice("sdpa", "backend 'torch' was asked for")
    if backend == "reference":
        return AttentionChoice("reference", "backend 'reference' was asked for")
    if backend not in ("auto", "triton"):  # there is no Triton form: SDPA's fused kernels are the ones to beat
        raise ValueError(f"backend: '{backend}', must be one of auto, triton, torch, reference")
    if device.type == "cpu":
        return _by_rule(dtype, shape[2], dropout)
    candidates = _CANDIDATES.get(device.type, ())
    if not candidates:
        return AttentionChoice("sdpa", f"nothing else is known on {device.type}")
    return fastest_form(candidates, device, dtype, shape, dropout, gradients)


def fastest_form(
    candidates: tuple[Implementation, ...],
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    dropout: float,
    gradients: bool = True,
) -> AttentionChoice:
    """Return the form that runs fastest by a clear margin, else the first of those that run; see `choose_attention`.

    Raises:
        ValueError: If none runs.
    """
    times, problems = {}, []
    for form in candidates:
        try:
            times[form] = _seconds(form, device, dtype, shape, dropout, gradients)
        except Exception as error:  # an operator that is missing, unbuilt or unfit may raise anything
            problems.append(f"{form} does not run ({type(error).__name__}: {first_line(error)})")
    if not times:
        raise ValueError(f"attention: no form runs on {device} at {shape} {str(dtype)[6:]}: {'; '.join(problems)}")
    best = min(times, key=lambda form: times[form])
    default = next(iter(times))
    if times[default] < _MARGIN * times[best]:
        best = default
    passes = "forward + backward" if gradients else "forward"
    timings = ", ".join(f"{form} {seconds * 1e3:.2f} ms" for form, seconds in times.items())
    reason = f"fastest by {_MARGIN:g} or the default, {passes} at {shape} {str(dtype)[6:]}: {timings}"
    return AttentionChoice(best, "; ".join([reason, *problems]))


def _by_rule(dtype: torch.dtype, length: int, dropout: float) -> AttentionChoice:
    """What is faster on CPUs, measured at six shapes from (64, 2, 9, 16) to (4, 12, 1025, 64), forward and backward.

    With dropout torch has no fused kernel there; without it, its kernel is slow in bfloat16 and at few tokens.
    """
    if dropout:
        return AttentionChoice("matmul", "by rule: torch fuses no dropout on a CPU")
    if dtype == torch.bfloat16 and length <= _FEW_TOKENS and not _has_amx():
        return AttentionChoice("matmul", f"by rule: bfloat16 on a CPU without AMX, at most {_FEW_TOKENS} tokens")
    return AttentionChoice("sdpa", "by rule: torch's own kernel")


def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def generation_form(device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Return the form that generates, by a fixed rule: a clock could choose another for the same seed."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return AttentionChoice("sdpa", "by rule: torch's own kernels")
    if _has_amx():
        return AttentionChoice("sdpa", "by rule: torch's kernel uses AMX")
    return AttentionChoice("matmul", "by rule: a CPU without AMX multiplies faster than torch's kernel")


def attention_problem(
    form: Implementation,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    dropout: float,
) -> str | None:
    """Return why a form cannot train on a device, found by running it forward and backward; None if it can."""
    try:
        _seconds(form, device, dtype, (min(shape[0], 2), *shape[1:]), dropout, True, calls=1)
    except Exception as error:  # an operator that is missing, unbuilt or unfit may raise anything
        return first_line(error)
    return None


_WARM_UPS = 3
_MARGIN = 1.2  # by which a form has to be faster than the default
_FEW_TOKENS = 512
_CANDIDATES: dict[str, tuple[Implementation, ...]] = {
    "cuda": ("sdpa", "xformers"),  # holding SDPA to one kernel sets flags of the whole process: on request only
}


def _seconds(
    form: Implementation,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    dropout: float,
    gradients: bool,
    calls: int | None = None,
) -> float:
    """Seconds of one call, on what a block gives: views of one tensor, and a gradient that differs everywhere."""
    images, heads, length, width = shape
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
        joint = torch.randn(images, length, 3, heads, width, device=device).to(dtype)
        inputs = [part.detach().requires_grad_(gradients) for part in joint.permute(2, 0, 3, 1, 4)]
        grad = torch.randn(images, length, heads, width, device=device).to(dtype).transpose(1, 2)

        def call() -> None:
            out = attention(*inputs, dropout=dropout, implementation=form)
            if gradients:
                torch.autograd.grad(out, inputs, grad)

        return seconds_of(call, device, calls)


def seconds_of(call: Callable[[], None], device: torch.device, calls: int | None = None) -> float:
    """Return seconds of one call: on CUDA the mean of a row of them between two events, elsewhere the shortest.

    What is called is shorter than the Python around it: the clock of the host would rank the forms by that.

    Args:
        call: Puts its work on the device's current stream.
        device: Where.
        calls: How many; None for 20 on CUDA, 5 elsewhere.
    """
    if device.type != "cuda":
        times = []
        for _ in range(calls or 5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)
    count = calls or 20
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for number in range(count + _WARM_UPS):
            if number == _WARM_UPS:
                begin.record()
            call()
        end.record()
        end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / count
