"""Tokenizers side by side on crops of photographs: what each term of the loss, and each quantizer, gives.

python -m benchmarks.tokenizers [--out runs/tokenizers] [--results benchmarks/results/tokenizers] [--only NAME ...]
                                [--short]

Each row is a training of the tokenizer of recipes/vqgan_photos.json with changes, at equal steps, on crops of 64 pixels
of photographs that installed packages have (see photograph_crops.py), judged on crops of other photographs by two
networks: one that no loss of the row used, and the other. Some four hours on two cores in rows of under 25 minutes; a
row whose figures lie in the results, of the same recipe and crops, is taken; one that was killed goes on. `--short`
trains four rows for a few steps, elsewhere: it shows that all of it runs, and compares nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mage_kernels import keep_freed_memory

from benchmarks.photograph_crops import write_crops
from benchmarks.tokenizer_rows import LITE0, SQUEEZENET, Row, measure_row, stored
from benchmarks.tokenizer_table import write_page
from mage_kit.base.progress import Reporter

STEPS, SHORT = 3000, 200
SEEDS = (0, 1, 2)
BEST, RATES = 2e-3, (1e-3, 2e-3, 4e-3)  # of the squared error alone, which gets the best of them
_SQUARED: dict[str, Any] = {"kind": "reconstruct", "perceptual": None}
_WEIGHTS = {SQUEEZENET: 0.05, LITE0: 0.03}  # of the distances, which are about one half and one of these crops
_ADVERSARY = 0.004


def _perceptual(kind: str) -> dict[str, Any]:
    return {"kind": "reconstruct", "perceptual": {"kind": kind}, "perceptual_weight": _WEIGHTS[kind]}


def _adversarial(kind: str) -> dict[str, Any]:
    return {**_perceptual(kind), "kind": "adversarial", "adversarial_weight": _ADVERSARY}


QUANTIZERS: dict[str, dict[str, Any]] = {  # ten bits a token each
    "fsq": {"kind": "fsq", "levels": [4, 4, 4, 4, 4]},
    "lfq": {"kind": "lfq", "bits": 10},
    "bsq": {"kind": "bsq", "bits": 10},
    "ibq": {"kind": "ibq", "codes": 1024, "width": 32, "unit": True},  # else twenty codes are left, at this rate
    "simvq": {"kind": "simvq", "codes": 1024, "width": 8},  # of 32 values fewer codes are in use
}


def rows() -> list[Row]:
    """Return every row, what decides first."""
    rates = [
        Row(f"squared-lr{rate:g}", f"squared error, rate {rate:g}", {**_SQUARED, "lr": rate}, modelled=rate == BEST)
        for rate in RATES
    ]
    best = [Row(f"squared-s{seed}", "squared error", {**_SQUARED, "lr": BEST}, seed=seed) for seed in SEEDS[1:]]
    full = [
        Row(f"adversarial-{kind}-s{seed}", f"+ perceptual ({kind}) + adversarial", _adversarial(kind), seed=seed)
        for seed in SEEDS
        for kind in (SQUEEZENET, LITE0)
    ]
    alone = [Row(f"perceptual-{kind}", f"+ perceptual ({kind})", _perceptual(kind)) for kind in (SQUEEZENET, LITE0)]
    hues = Row("hues", "squared error, chroma weighed by 4", {**_SQUARED, "lr": BEST, "chroma_weight": 4.0})
    quantizers = [
        Row(kind, f"squared error, {kind}", {**_SQUARED, "lr": BEST}, quantizer, modelled=True)
        for kind, quantizer in QUANTIZERS.items()
    ]
    return [rates[1], *full[:2], *best, *full[2:], rates[0], rates[2], *alone, hues, *quantizers]


def main() -> None:
    """Train what is missing, write table and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizers"), help="crops and runs")
    parser.add_argument("--results", type=Path, default=None, help="figures; default benchmarks/results/tokenizers")
    parser.add_argument("--only", nargs="+", default=None, help="rows by name")
    parser.add_argument("--short", action="store_true", help=f"four rows of {SHORT} steps")
    arguments = parser.parse_args()
    every = rows()
    names = [row.name for row in every]
    if unknown := [name for name in arguments.only or [] if name not in names]:
        parser.error(f"--only {unknown[0]}: must be one of {', '.join(names)}")
    short = [*every[:2], *every[-2:]] if arguments.short else every
    steps = SHORT if arguments.short else STEPS
    home = Path(__file__).parent / "results" / "tokenizers"
    results = arguments.results or (arguments.out / "short" if arguments.short else home)
    keep_freed_memory()
    reporter, facts = Reporter(), write_crops(arguments.out / "crops")
    results.mkdir(parents=True, exist_ok=True)
    measurements = []
    for row in short:
        figures = stored(row, results, facts, steps)
        if figures is None and (arguments.only is None or row.name in arguments.only):
            reporter.say(f"row {row.name}: {steps} steps")
            figures = measure_row(row, arguments.out, results, steps, reporter)
        if figures is not None:
            measurements.append(figures)
    reporter.say(f"written: {write_page(measurements, facts, results, len(short))}")


if __name__ == "__main__":
    main()
