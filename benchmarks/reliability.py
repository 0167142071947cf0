"""What the promises of docs/reliability.md cost, and races for one folder; figures go to benchmarks/results.

`python -m benchmarks.reliability digests` loads a ViT-L folder with and without its manifest, in turn;
`doors` times the look at images that come in beside a model's features of them; `races` starts two trainings at once.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import mage_kit as mk
from benchmarks.kills import RESULTS, Chain, start, wait
from mage_kit.base.doors import check_pixels
from mage_kit.base.files import write_json
from mage_kit.base.manifest import MANIFEST_FILE, FileWarning

ROOT = Path(__file__).parents[1]
TIMES, LONG = 15, 5


def in_turn(first: Callable[[], object], second: Callable[[], object], times: int) -> tuple[list[float], list[float]]:
    """Return seconds of both, measured one after the other, so that what else the machine does meets both alike."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(times + 1):
        for place, work in enumerate((first, second)):
            begin = time.perf_counter()
            work()
            if number:  # the first of each warms up
                seconds[place].append(time.perf_counter() - begin)
    return seconds


def digests(place: Path) -> dict[str, Any]:
    """Loading a ViT-L model folder with digests against without."""
    folder = mk.save(mk.build(mk.Recipe.load(ROOT / "recipes" / "mage_vitl.json")).model, place / "listed")
    plain = place / "plain"
    plain.mkdir()
    for file in folder.iterdir():
        if file.name != MANIFEST_FILE:
            os.link(file, plain / file.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        listed, unlisted = in_turn(lambda: mk.load(folder), lambda: mk.load(plain), TIMES)
    size = (folder / "model.safetensors").stat().st_size
    return _ratio("digests", listed, unlisted) | {"gib": round(size / 2**30, 2)}


def doors() -> dict[str, Any]:
    """Features of 8 images by a ViT-B, and the look at these images: far less than two such calls differ by."""
    model = mk.build(mk.Recipe.load(ROOT / "recipes" / "mage_vitb.json")).model
    assert isinstance(model, mk.Mage)
    images = torch.rand(8, 3, *model.tokenizer.image_size)
    looks, calls = in_turn(lambda: check_pixels("images", images), lambda: model.features(images), LONG)
    look, call = statistics.median(looks), statistics.median(calls)
    return {"what": "doors", "seconds_of_the_look": round(look, 6), "seconds": round(call, 3),
            "share": float(f"{look / call:.2g}")}  # fmt: skip


def _ratio(name: str, ours: list[float], plain: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    return {
        "what": name,
        "seconds": round(statistics.median(ours), 4),
        "seconds_without": round(statistics.median(plain), 4),
        "ratio": round(statistics.median(ratios), 4),  # of pairs measured side by side
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def races(place: Path, count: int) -> dict[str, Any]:
    """Two trainings at once into one folder: one trains, one says why not, and the folder is the winner's."""
    draw = random.Random(0)
    for number in range(count):
        home = place / f"race-{number}"
        home.mkdir()
        out = home / "run"
        pids = []
        for _ in range(2):
            pids += start(Chain(number, 1, 0), out)
            time.sleep(draw.choice((0.0, 0.0, 0.001, 0.01, 0.1)))
        statuses = [wait(pid, 300) for pid in pids]
        assert all(status is not None and os.WIFEXITED(status) for status in statuses), f"race {number}: {statuses}"
        codes = sorted(os.WEXITSTATUS(status) for status in statuses if status is not None)
        words = (home / "error-0.txt").read_text()
        assert codes == [0, 4], f"race {number}: {codes}: {words}"
        assert "is in use by process" in words or "is not empty" in words or "complete" in words, words
        mk.load(out)
        shutil.rmtree(home)
    return {"what": "races", "races": count, "one trains, one says why not": count}


def main() -> None:
    """Measure what is named, print it, and write it beside the results of other days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("digests", "doors", "races"))
    parser.add_argument("--count", type=int, default=20, help="races")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = {
            "digests": lambda: digests(Path(place)),
            "doors": doors,
            "races": lambda: races(Path(place), options.count),
        }
        result = work[options.what]() | {"date": time.strftime("%Y-%m-%d"), "threads": torch.get_num_threads()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS.parent / f"{options.what}-{result['date']}.json", result)
    Console().print(result)


if __name__ == "__main__":
    main()
