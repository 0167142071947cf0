"""The parts of the GPU's benchmark: each a command of its own, with a limit, what it needs, and what it owes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNELS_NEED = ("pytest", "triton")
TOOLKIT_NEEDS = ("einops", "pydantic", "safetensors", "rich", "typer", "lightning_fabric")
# From the kernels' design: what an operation is allowed to take on an H200, in microseconds.
ALLOWED = {("embed", "vitl_encoder"): 30, ("pad", "vitb_decoder"): 60, ("decode_step", "vitb_generation"): 20}
# What the same products in the same precision leave to gain, and what float32 leaves.
RATIOS = {
    "step, same precision": ("step_ratio_live_same_precision", 1.4),
    "step, float32": ("step_ratio_live", 6.0),
    "generation, same precision": ("generation_ratio_same_precision", 1.3),
}
SHARES = {"vitl": 0.5, "vitb": 0.45}  # of the matrix ceiling, for a step from cached tokens


@dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: In the result.
        module: That `python -m` runs.
        words: Its arguments, but for the file that it writes.
        limit: Seconds, after which it is stopped.
        needs: Packages without which it is left out.
        writes: Whether it takes `--json FILE`.
    """

    name: str
    module: str
    words: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()
    writes: bool = True

    def command(self, file: Path) -> list[str]:
        """Return the words after `python`."""
        return ["-m", self.module, *self.words, *(["--json", str(file)] if self.writes else [])]

    def check(self, file: Path) -> None:
        """Have the words read by the command's own parser, which leaves with an error if it cannot."""
        if self.writes:
            importlib.import_module(self.module).parser().parse_args(self.command(file)[2:])


def parts(images: int, toy: bool) -> list[Part]:
    """Return the parts in order; the limits add up to less than eight minutes.

    Args:
        images: Of a training step, end to end.
        toy: Small enough for a CPU.
    """
    tests = ("tests/kernels/test_triton.py", "tests/kernels/test_kernels.py")
    toy_words = ("--toy",) if toy else ()
    quick = ("-q", "-p", "no:cacheprovider", *(("-k", "flops") if toy else ()))
    commands = [
        Part("kernel tests", "pytest", (*quick, *tests), 50, KERNELS_NEED, writes=False),
        Part("operations", "benchmarks.operations", toy_words, 70, ("triton",)),
        Part("checks", "benchmarks.gpu_checks", toy_words, 24, TOOLKIT_NEEDS),
    ]
    sizes = ("2", "4") if toy else (str(images), str(4 * images))
    for model, limit in (("vitl", 80), ("vitb", 50)):
        words = ("--model", model, "--sizes", *sizes, *toy_words)
        commands.append(Part(f"{model} forms", "benchmarks.training_forms", words, limit, TOOLKIT_NEEDS))
    for model, limit in (("vitl", 80), ("vitb", 50)):
        words = ("--model", model, "--images", str(images), "--no-agreement", "--generations", "2")
        rest = ("--repeats", "3", "--warm", "2", *toy_words)
        commands.append(Part(model, "benchmarks.end_to_end", (*words, *rest), limit, TOOLKIT_NEEDS))
    counts = ("1", "2") if toy else ("1", "4", "64")
    words = ("--model", "vitl", "--sizes", *counts, *toy_words)
    commands.append(Part("generation", "benchmarks.generation_forms", words, 45, TOOLKIT_NEEDS))
    words = ("--model", "vitb", "--images", str(images), *toy_words)
    commands.append(Part("engines", "benchmarks.engine_forms", words, 30, TOOLKIT_NEEDS))
    return commands


def verdicts(results: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each demand, by what the parts wrote; what was not measured does not hold.

    Args:
        results: By the part's name what it wrote; parts that failed are not in it.
    """
    lines = results.get("operations", {}).get("operations", [])
    times = {(line["operation"], line["size"], line["form"]): line["seconds"] for line in lines}
    for (operation, size), allowed in ALLOWED.items():
        seconds = times.get((operation, size, "triton"))
        yield verdict(f"{operation} {size}, us", seconds and seconds * 1e6, allowed, at_most=True)
    for model, share in SHARES.items():
        result = results.get(model, {})
        for name, (key, least) in RATIOS.items():
            yield verdict(f"{model} {name}", result.get(key), least)
        forms = results.get(f"{model} forms", {}).get("forms", {})
        cached = [line["share"] for name, line in forms.items() if "compiled, cached" in name and "share" in line]
        yield verdict(f"{model} step from cached tokens, share of the matrix ceiling", max(cached, default=None), share)
        plans = [abs(line["peak_to_plan"] - 1) for line in forms.values() if "peak_to_plan" in line]
        yield verdict(f"{model} memory, distance from the plan", max(plans, default=None), 0.1, at_most=True)
    generation = results.get("generation", {}).get("forms", {})
    one = [generation.get(f"{form}, 1 images", {}).get("seconds") for form in ("as written", "graph")]
    gain = one[0] / one[1] if one[0] and one[1] else None
    yield verdict("vitl generation of 1 image, as a graph", gain, 3.0)


def verdict(name: str, value: float | None, demand: float, at_most: bool = False) -> str:
    """Return one line."""
    if value is None:
        return f"{name}: not measured (demand {demand:g})"
    holds = value <= demand if at_most else value >= demand
    return f"{name}: {value:.3g} (demand {demand:g}): {'holds' if holds else 'does not hold'}"
