"""A training step in each form that it can take, its memory beside the plan's, and the tokenizer's rate; JSON out.

    python -m benchmarks.training_forms --model vitl --json FILE [--sizes 64 256] [--toy]

Forms: as it is written, compiled, compiled with a bfloat16 residual stream; from cached tokens and live; each size is
a number of images at once. Shares are of the matrix rate that the same process measures. A form that does not run is
a line that says why.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from mage_kernels.attention_choice import seconds_of

from benchmarks.ceilings import matrix_ceiling
from benchmarks.part_command import failure, part_parser, positive
from benchmarks.sides import TOY, Bench, Settings, job_dtype, model_flops
from mage_kit.planning.estimate import step_memory
from mage_kit.recipes.workload import workload

FORMS = {  # compiled, with a bfloat16 residual stream
    "as written": (False, False),
    "bfloat16 residual": (False, True),
    "compiled": (True, False),
    "compiled, bfloat16 residual": (True, True),
}
_CALLS = 8


def forms(
    settings: Settings, device: torch.device, names: list[str], toy: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each form's name and its figures, or why it has none.

    Args:
        settings: What is measured.
        device: Where.
        names: Of `FORMS`, compiled ones last: the tokenizer stays compiled.
        toy: Compile without a compiler: to see that it runs.
    """
    flops, ceiling = model_flops(settings), matrix_ceiling(device, job_dtype(device))
    bench = Bench(settings, device, "mage_kit", compiled=False)
    options: dict[str, Any] = {"backend": "aot_eager"} if toy else {}
    torch.compiler.reset()
    for name in names:
        compiled, narrow = FORMS[name]
        bench.model.set_residual(torch.bfloat16 if narrow else torch.float32)
        if compiled:
            bench.compile(**options)
        for data in ("cached", "live"):
            label = f"{name}, {data}, {settings.images} images"
            try:
                yield label, figures(bench, data == "live", 1 if toy else _CALLS, flops, ceiling)
            except Exception as error:  # one form must not cost the others' figures
                yield label, failure(error)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def figures(bench: Bench, live: bool, calls: int, flops: dict[str, float], ceiling: float) -> dict[str, Any]:
    """Return seconds a step, images a second, the share of the matrix rate, and memory beside the plan's.

    Args:
        bench: As it is to be measured.
        live: With the tokenizer in the loop.
        calls: Steps that are timed.
        flops: See `model_flops`.
        ceiling: The matrix rate in what a step computes in, FLOP/s.
    """
    settings, device = bench.settings, bench.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.monotonic()
    bench.ours(live)  # compiles
    first = time.monotonic() - start
    seconds = seconds_of(lambda: bench.ours(live), device, calls)
    work = flops["step" if live else "cached"]
    result = {"seconds": seconds, "images_per_s": settings.images / seconds, "share": work / seconds / ceiling}
    result["first_call_seconds"] = first
    if device.type == "cuda":
        recipe = settings.recipe().changed("training", batch=settings.images, micro_batch=settings.images)
        plan = step_memory(workload(recipe))[1].peak
        peak = float(torch.cuda.max_memory_allocated(device))
        result |= {"peak_bytes": peak, "plan_bytes": plan, "peak_to_plan": peak / plan}
    return result


def tokenizer_rates(settings: Settings, device: torch.device, toy: bool) -> dict[str, float]:
    """Return images a second of encoding and decoding, as written and compiled."""
    bench = Bench(settings, device, "mage_kit", compiled=False)
    tokenizer, rates = bench.model.tokenizer, {}
    pixels = bench.pixels[:64]
    options: dict[str, Any] = {"backend": "aot_eager"} if toy else {}
    with torch.no_grad(), bench.autocast():
        ids = tokenizer.encode(pixels)
        calls = {"decode": lambda: tokenizer.decode(ids), "encode": lambda: tokenizer.encode(pixels)}
        for name, call in calls.items():
            rates[name] = len(pixels) / seconds_of(call, device, 1 if toy else _CALLS)
        if tokenizer.compile_encoder(dynamic=False, **options):
            tokenizer.encode(pixels)
            rates["encode, compiled"] = len(pixels) / seconds_of(calls["encode"], device, 1 if toy else _CALLS)
    return rates


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    words = part_parser(__doc__)
    words.add_argument("--model", choices=("vitb", "vitl"), default="vitl")
    words.add_argument("--sizes", type=positive, nargs="+", default=[64, 256], help="images at once")
    words.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), help="which, at the last size")
    return words


def main() -> None:
    """Measure, print, write."""
    options = parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"model": options.model, "forms": {}}
    for place, images in enumerate(options.sizes):
        settings = Settings(images, 0.1, 16, options.model)
        if options.toy:
            settings = Settings(images, 0.1, 4, options.model, 2, TOY)
        names = options.forms if place == len(options.sizes) - 1 else ["compiled"]
        for label, line in forms(settings, device, names, options.toy):
            result["forms"][label] = line
            print(label, line, flush=True)
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    result["tokenizer_images_per_s"] = tokenizer_rates(settings, device, options.toy)
    options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
