"""Images a second of the ways to feed a training: tar shards and loose files, cached and live tokens, workers.

python -m benchmarks.throughput [--images 400] [--side 375] [--repeats 3] [--json FILE]

The images are made here: JPEG files of photograph-like texture at ImageNet's typical size. All ways are timed in turn
in one run, and medians are compared: absolute figures are this machine's. Files come from the page cache, as they do
in a second epoch. Live tokens come from the published VQGAN's shape at random weights, in bfloat16.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from mage_kernels import keep_freed_memory
from PIL import Image

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.store.folders import save_tokenizer
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.batches import Batch
from mage_kit.training.loader import Order, batches
from mage_kit.training.tasks.base import to_float

BATCH = 32
FEW = 24  # images that are tokenised, 8 at once: a tokenizer on a CPU is slow
RECIPE = Path(__file__).parent.parent / "recipes" / "mage_vitb.json"


def make_images(folder: Path, count: int, side: int) -> None:
    """Write JPEG files: noise at several scales, which compresses as photographs do."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        canvas = np.zeros((side, side * 4 // 3, 3), dtype=np.float32)
        for scale in (4, 16, 64):
            small = random.normal(0, 20 * scale**0.3, (max(2, side // scale), max(2, side * 4 // 3 // scale), 3))
            grown = [Image.fromarray(small[..., c].astype(np.float32)).resize(canvas.shape[1::-1]) for c in range(3)]
            canvas += np.stack([np.asarray(part) for part in grown], axis=-1)
        pixels = np.clip(canvas + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.jpg", quality=90)


def pack(folder: Path, tars: Path, per: int = 100) -> None:
    """Put the files into tar shards."""
    tars.mkdir()
    files = sorted(folder.iterdir())
    for number, start in enumerate(range(0, len(files), per)):
        with tarfile.open(tars / f"{number:04d}.tar", "w") as tar:
            for file in files[start : start + per]:
                content = file.read_bytes()
                info = tarfile.TarInfo(file.name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def rate(dataset: Dataset, steps: int, workers: int, consume: Callable[[Batch], object], size: int = BATCH) -> float:
    """Images a second over some batches, the start of the loading processes left out."""
    order = Order(len(dataset), size, 0)
    feed: Iterator[Batch] = batches(dataset, order, 0, steps + 2, 0, workers)
    for _ in range(2):
        consume(next(feed))
    start = time.perf_counter()
    for batch in feed:
        consume(batch)
    return steps * size / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--side", type=int, default=375, help="height of an image; ImageNet's mean is 375 x 500")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    if given.images < 4 * BATCH:
        parser.error(f"--images {given.images}: must be at least {4 * BATCH}")
    if given.json is not None and given.json.exists():
        parser.error(f"--json {given.json}: exists")
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        medians = measure(Path(place), given.images, given.side, given.repeats)
    for name, value in medians.items():
        print(f"{name:<42}{value:>10.1f} images/s")
    for one, other in (
        ("tar shards", "loose files"),
        ("loose files, 2 workers", "loose files, 1 worker"),
        ("loose files, 1 worker", "loose files"),
        ("tokens from a cache", "tokens made live"),
    ):
        print(f"{one} / {other}: {medians[one] / medians[other]:.2f}x")
    if given.json is not None:
        given.json.write_text(json.dumps(medians, indent=2) + "\n")


def measure(place: Path, images: int, side: int, repeats: int) -> dict[str, float]:
    """Time all ways in turn, several times over."""
    make_images(place / "loose", images, side)
    pack(place / "loose", place / "tars")
    wires = DatasetWires((256, 256), 3)
    loose = DATASETS.build(DATASETS.parse({"kind": "image_folder", "path": str(place / "loose")}), wires)
    tars = DATASETS.build(DATASETS.parse({"kind": "tar_shards", "path": str(place / "tars")}), wires)
    recipe = mk.Recipe.load(RECIPE, [f"data.path={place / 'loose'}", "training.precision=auto"])
    tokenizer = recipe.build_tokenizer().requires_grad_(False).eval()
    save_tokenizer(tokenizer, place / "tokenizer")
    small = place / "few"
    small.mkdir()
    for file in sorted((place / "loose").iterdir())[:FEW]:
        (small / file.name).hardlink_to(file)
    settings = [f"data.path={small}", f"tokenizer.weights={place / 'tokenizer'}", "training.precision=float32"]
    ready = mk.Recipe.load(RECIPE, settings)
    cache = tokenize(ready, place / "cache", crops=1, reporter=Reporter.silent())
    cached, few = on_tokens(ready, cache).build_dataset(), ready.build_dataset()
    low = tokenizer.to(memory_format=torch.channels_last)

    def count(batch: Batch) -> object:
        return len(batch.index_B)

    def live(batch: Batch) -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return low.encode(to_float(batch.images_TCHW, torch.device("cpu")))

    steps = images // BATCH - 2
    ways: dict[str, Callable[[], float]] = {
        "loose files": lambda: rate(loose, steps, 0, count),
        "tar shards": lambda: rate(tars, steps, 0, count),
        "loose files, 1 worker": lambda: rate(loose, steps, 1, count),
        "loose files, 2 workers": lambda: rate(loose, steps, 2, count),
        "tar shards, 2 workers": lambda: rate(tars, steps, 2, count),
        "tokens made live": lambda: rate(few, 2, 0, live, 8),
        "tokens from a cache": lambda: rate(cached, 300, 0, count, 8),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
