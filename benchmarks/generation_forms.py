"""Generation at one, few and many images: as it is written, with compiled blocks, as a CUDA graph; JSON out.

python -m benchmarks.generation_forms --model vitl --json FILE [--sizes 1 4 64] [--toy]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mage_kernels.attention_choice import seconds_of

import mage_kit as mk
from benchmarks.part_command import failure, part_parser, positive
from benchmarks.sides import TOY, Bench, Settings
from mage_kit.generation import graphs

FORMS = ("as written", "graph", "compiled")  # compiled blocks stay so: last


def forms(model: mk.Mage, sizes: list[int], toy: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each form's name and its figures, or why it has none."""
    device, steps = model.device, 2 if toy else Bench.STEPS
    for form in FORMS:
        for count in sizes:

            def call(count: int = count) -> None:
                mk.generate(model, count, steps=steps, batch=count)

            yield f"{form}, {count} images", _figures(model, form, count, call, device, toy)


def _figures(
    model: mk.Mage, form: str, count: int, call: Callable[[], None], device: torch.device, toy: bool
) -> dict[str, Any]:
    most = graphs.MOST_IMAGES
    graphs.MOST_IMAGES = count if form == "graph" else 0
    try:
        if form == "compiled":
            torch.compiler.reset()
            model.compile_blocks(dynamic=False, **({"backend": "aot_eager"} if toy else {}))
        call()
        seconds = seconds_of(call, device, 1 if toy else 3)
        return {"seconds": seconds, "images_per_s": count / seconds}
    except Exception as error:  # one form must not cost the others' figures
        return failure(error)
    finally:
        graphs.MOST_IMAGES = most


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    words = part_parser(__doc__)
    words.add_argument("--model", choices=("vitb", "vitl"), default="vitl")
    words.add_argument("--sizes", type=positive, nargs="+", default=[1, 4, 64], help="images at once")
    return words


def main() -> None:
    """Measure, print, write."""
    options = parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(1, 0.1, 4, options.model, 2, TOY) if options.toy else Settings(1, 0.1, 16, options.model)
    model = settings.recipe().build_model().to(device).eval()
    result: dict[str, Any] = {"model": options.model, "forms": {}}
    for label, line in forms(model, options.sizes, options.toy):
        result["forms"][label] = line
        print(label, line, flush=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
