"""What is timed: every operation, in every form that runs here, at every size; with what it moves or computes.

A case knows how to check itself on a few images against the plain reference form, in float64 where the operation is
arithmetic. Nothing is timed that was not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from mage_kernels import attention, dropout, embed_kept, gumbel, make_plan, pad_tokens, remask, sample_tokens
from mage_kernels.attention import Implementation
from mage_kernels.backend import triton_problem
from mage_kernels.packing import PackedLinear, packing_problem
from torch import Tensor

from benchmarks import plain
from benchmarks.sizes import SIZES, Size

CHECKED = 2  # images that the reference form, which loops, is run on
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Args:
        operation: What it does.
        size: Name of the size.
        form: Which implementation; "plain" is what others are compared with.
        fresh: Makes what does it once, on inputs of its own.
        check: Compares it with the reference, and raises if they differ.
        moved: Bytes that must be read and written; 0 where products count.
        flops: Products' operations; 0 where bytes count.
        dtype: Of the products.
    """

    operation: str
    size: str
    form: str
    fresh: Callable[[], Callable[[], object]]
    check: Callable[[], None]
    moved: float
    flops: float
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """For people and for test ids."""
        return f"{self.operation}-{self.size}-{self.form}"


Make = Callable[[str, int], Callable[[], Any]]


def cases(device: torch.device) -> Iterator[Case]:
    """Yield every case of a device, small sizes first."""
    dtype = torch.bfloat16
    for size in SIZES:
        if size.seen <= 1 + size.tokens - size.dropped or size.generating:  # encoder shapes and generation
            yield from _embedding(size, device, dtype)
        if not size.name.endswith("_encoder"):
            yield from _padding(size, device, dtype)
        if size.generating or size.name == "small":
            yield from _decoding(size, device, dtype)
        yield from _attention(size, device, dtype)
        if not size.generating and not size.name.endswith("_decoder"):
            yield from _dropout(size, device, dtype)
        if device.type == "cpu" and size.generating:
            yield from _linear(size, device, dtype)


def backends(device: torch.device) -> list[str]:
    """Forms of the token operations that run here at full size; the reference loops and is only compared with."""
    return ["plain", "torch"] + (["triton"] if triton_problem(device) is None and device.type == "cuda" else [])


def _case(
    operation: str,
    size: Size,
    form: str,
    device: torch.device,
    make: Make,
    same: Callable[[Any, Any, Any], None],
    work: tuple[float, float],
    dtype: torch.dtype,
) -> Case:
    """Put a case together: `make(form, images)` returns a run on inputs that follow from the number of images alone."""
    images = size.batch(device)

    def check() -> None:
        same(*(make(name, CHECKED)() for name in (form, "reference", "plain")))

    return Case(operation, size.name, form, lambda: make(form, images), check, *work, dtype)


def close(found: Any, wanted: Any, plain: Any) -> None:
    """Compare tensors, or lists of them: nowhere twice as far from the reference as plain torch in the same dtype."""
    triples = [(found, wanted, plain)] if isinstance(found, Tensor) else list(zip(found, wanted, plain, strict=True))
    for number, (one, other, usual) in enumerate(triples):
        exact = other.detach().double()
        error, allowed = (float((value.detach().double() - exact).norm()) for value in (one, usual))
        size = float(exact.norm())
        if not (error <= max(2 * allowed, 1e-6 * size) and error <= 0.05 * size):
            raise AssertionError(
                f"result {number} is off by {error / size:.2e} of its norm, plain torch by {allowed / size:.2e}"
            )


def with_gradients(run: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Return the forward and backward pass: the output and the leaves' gradients."""

    random = torch.Generator().manual_seed(1)
    given: list[Tensor] = []

    def both() -> list[Tensor]:
        output = run()
        if not given:
            # Rounded alike for all forms: the reference answers the same question.
            given.append(torch.randn(output.shape, generator=random).to(torch.bfloat16).to(output))
        return [output, *torch.autograd.grad(output, leaves, given)]

    return both


def _plan(size: Size, images: int, device: torch.device) -> tuple[Any, Tensor]:
    generator = torch.Generator().manual_seed(images)
    noise = torch.rand(images, size.tokens, generator=generator).to(device)
    counts = torch.full((images,), round(0.7 * size.tokens))
    plan = make_plan(noise, counts, size.dropped)
    keep = torch.zeros(images, 1 + size.tokens, dtype=torch.bool, device=device).scatter_(1, plan.kept_BS, True)
    return plan, keep


def _embedding(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    kept, width = 1 + size.tokens - size.dropped, size.width

    def make(backward: bool) -> Make:
        def build(form: str, images: int) -> Callable[[], Any]:
            torch.manual_seed(0)
            plan, keep = _plan(size, images, device)
            ids = torch.randint(size.codes, (images, size.tokens), device=device)
            rows = torch.nn.functional.pad(torch.where(plan.masked_BL, size.codes, ids), (1, 0), value=size.codes + 1)
            exact = torch.float64 if form == "reference" else dtype
            values = [
                torch.randn(shape, device=device).to(dtype)
                for shape in ((size.codes + 2, width), (1 + size.tokens, width))
            ]
            values += [torch.rand(width, device=device).add(0.5).to(dtype), torch.randn(width, device=device).to(dtype)]
            leaves = [value.to(exact).requires_grad_(backward) for value in values]
            table, positions, weight, bias = leaves
            run: Callable[[], Any] = partial(plain.embed, rows, keep, table, positions, weight, bias)
            if form != "plain":
                norm, inputs = (weight, bias, EPS), (rows, plan.kept_BS, table, positions)
                run = partial(embed_kept, *inputs, norm, hot_row=size.codes, backend=form)
            return with_gradients(run, leaves) if backward else run

        return build

    moved = 2.0 * size.batch(device) * kept * width + 2 * (size.codes + size.tokens) * width
    for form in backends(device):
        yield _case("embed", size, form, device, make(False), close, (moved, 0), dtype)
        if not size.generating:
            yield _case("embed+grad", size, form, device, make(True), close, (2 * moved, 0), dtype)


def _padding(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    kept, width = 1 + size.tokens - size.dropped, size.inner

    def make(backward: bool) -> Make:
        def build(form: str, images: int) -> Callable[[], Any]:
            torch.manual_seed(0)
            plan, keep = _plan(size, images, device)
            exact = torch.float64 if form == "reference" else dtype
            values = [
                torch.randn(shape, device=device).to(dtype)
                for shape in ((images, kept, width), (1 + size.tokens, width))
            ]
            leaves = [value.to(exact).requires_grad_(backward) for value in values]
            latents, positions = leaves
            run: Callable[[], Any] = partial(plain.pad, latents, keep, positions)
            if form != "plain":
                run = partial(pad_tokens, latents, plan.slot_BN, positions, backend=form)
            return with_gradients(run, leaves) if backward else run

        return build

    moved = 2.0 * size.batch(device) * (kept + 1 + size.tokens) * width
    for form in backends(device):
        yield _case("pad", size, form, device, make(False), close, (moved, 0), dtype)
        if not size.generating:
            yield _case("pad+grad", size, form, device, make(True), close, (2 * moved, 0), dtype)


def _decoding(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    def build(form: str, images: int) -> Callable[[], Any]:
        generator = torch.Generator().manual_seed(images)
        logits = (3 * torch.randn(images, size.tokens, size.codes, generator=generator)).to(dtype).to(device)
        uniform, noise = (torch.rand(images, size.tokens, generator=generator).to(device) for _ in range(2))
        masked = torch.ones(images, size.tokens, dtype=torch.bool, device=device)
        count = torch.full((images,), size.tokens // 2, device=device)

        def run() -> tuple[Tensor, Tensor, Tensor]:
            if form == "plain":
                ids, log_p = plain.sample(logits, masked)
                return ids, log_p, plain.remask(log_p + 3 * gumbel(noise), masked, size.tokens // 2)
            backend: Any = form
            ids, log_p = sample_tokens(logits, uniform, masked, backend=backend, check=False)
            return ids, log_p, remask(log_p + 3 * gumbel(noise), masked, count, backend=backend)

        return run

    def same(form: str) -> Callable[[Any, Any, Any], None]:
        def compare(found: Any, wanted: Any, usual: Any) -> None:
            if form == "plain":  # draws from a generator of its own: only the counts can be compared
                assert bool((found[2].sum(dim=1) == size.tokens // 2).all()), "not half of the tokens stay masked"
                return
            share = float((found[0] == wanted[0]).double().mean())
            assert share >= 0.999, f"{share:.3%} of the sampled codes are the reference's, must be 99.9%"
            where = found[0] == wanted[0]
            off = float((found[1][where] - wanted[1][where]).abs().max())
            assert off < 1e-3, f"log-probabilities are off by {off:.1e}"
            agree = float((found[2] == wanted[2]).double().mean())
            assert agree >= 0.99, f"{agree:.2%} of the mask is the reference's, must be 99%"

        return compare

    moved = 2.0 * size.batch(device) * size.tokens * size.codes
    for form in backends(device):
        yield _case("decode_step", size, form, device, build, same(form), (moved, 0), dtype)


def _attention(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    width = size.attended // size.heads
    rate = 0.0 if size.generating else 0.1

    def make(backward: bool) -> Make:
        def build(form: str, images: int) -> Callable[[], Any]:
            torch.manual_seed(0)
            # Compared without dropout, whose draws differ between forms; timed with it.
            drop = rate if images == size.batch(device) and images != CHECKED else 0.0
            shape = (images, size.heads, size.seen, width)
            exact = torch.float64 if form == "reference" else dtype
            leaves = [torch.randn(shape, device=device).to(dtype).to(exact).requires_grad_(backward) for _ in range(3)]
            run: Callable[[], Any] = partial(plain.attention, *leaves, drop)
            if form != "plain":
                run = partial(attention, *leaves, dropout=drop, implementation=form)
            return with_gradients(run, leaves) if backward else run

        return build

    flops = 4.0 * size.batch(device) * size.seen**2 * size.attended
    forms = ["plain", *(form for form in get_args(Implementation) if form != "reference")]
    for form in forms:
        if not _attends(form, device, dtype, width):
            continue
        yield _case("attention", size, form, device, make(False), close, (0, flops), dtype)
        if not size.generating:
            yield _case("attention+grad", size, form, device, make(True), close, (0, 3 * flops), dtype)


def _attends(form: str, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a form runs on this device at all."""
    if form == "plain":
        return True
    if device.type == "cpu" and form not in ("sdpa", "matmul"):
        return False
    try:
        tiny = [torch.ones(1, 2, 9, width, dtype=dtype, device=device, requires_grad=True) for _ in range(3)]
        attention(*tiny, implementation=form).sum().backward()  # type: ignore[arg-type]
    except Exception:  # an operator that is missing or unfit may raise anything
        return False
    return True


def _dropout(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    shape_of = (size.seen, 4 * size.width)

    def build(form: str, images: int) -> Callable[[], Any]:
        torch.manual_seed(0)
        x = torch.ones(images, *shape_of, dtype=dtype, device=device)
        return (lambda: torch.dropout(x, 0.1, True)) if form in ("plain", "reference") else (lambda: dropout(x, 0.1))

    def same(found: Any, wanted: Any, usual: Any) -> None:
        rates = [float((value == 0).double().mean()) for value in (found, wanted)]
        assert abs(rates[0] - rates[1]) < 0.01, f"{rates[0]:.3f} dropped, must be near {rates[1]:.3f}"
        assert abs(float(found.double().mean()) - 1) < 0.01, "the mean has moved"

    moved = 4.0 * size.batch(device) * shape_of[0] * shape_of[1]
    for form in ("plain", "cheap"):
        yield _case("dropout", size, form, device, build, same, (moved, 0), dtype)


def _linear(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    if packing_problem(device) is not None:
        return
    width = size.width

    def build(form: str, images: int) -> Callable[[], Any]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(width, 4 * width).to(device).requires_grad_(False)
        x = torch.randn(images, size.seen, width, device=device)
        if form == "packed":
            packed = PackedLinear(layer.weight, layer.bias, images * size.seen)
            return lambda: packed(x, gelu=True)
        exact = layer.double() if form == "reference" else layer.to(dtype)
        kind = torch.float64 if form == "reference" else dtype
        return lambda: torch.nn.functional.gelu(exact(x.to(kind)))

    flops = 2.0 * size.batch(device) * size.seen * width * 4 * width
    for form in ("plain", "packed"):
        yield _case("linear+gelu", size, form, device, build, close, (0, flops), dtype)
