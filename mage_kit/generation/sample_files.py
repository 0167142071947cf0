"""Any number of samples as files, batch by batch: a folder of PNGs, or one .npz, by one process or several together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from mage_kit.base import processes
from mage_kit.base.checks import whole_number
from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import ProgressTask, Reporter
from mage_kit.generation.animation import Animation
from mage_kit.generation.generate import LAST, Generated, Labels, Sampler
from mage_kit.generation.loop import Step
from mage_kit.generation.preparation import Asked, generation_precision, prepare_to_generate
from mage_kit.generation.sample_forms import ArrayParts, PictureParts
from mage_kit.generation.sample_parts import SampleParts
from mage_kit.generation.sample_place import ARRAYS
from mage_kit.images.image_writing import save_gif
from mage_kit.images.pictures import cut_to_bytes
from mage_kit.models.decoding import DecodingChanges
from mage_kit.models.mage import Mage
from mage_kit.store.folders import weights_digest

MOST = 10_000_000  # images of a call: their numbers are in memory
_ANIMATED, _COLUMNS = 16, 4  # images of an animation, and in a row of it


def write_samples(
    model: Mage,
    n: int,
    out: str | os.PathLike[str],
    *,
    first: int = 0,
    seed: int = 0,
    labels: Labels = None,
    batch: int = 64,
    precision: Asked = "auto",
    overwrite: bool = False,
    gif: bool = False,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **changes: Unpack[DecodingChanges],
) -> Path:
    """Make images from nothing and write them as they come; memory holds a batch, whatever their number.

    Killed, the same call goes on: what is there already lies in `OUT.parts`. Among several processes (torchrun), all
    have to call it, and share the work. Image i follows (seed, i) alone, so that calls for other images fit together.

    Args:
        model: A model that generates.
        n: How many.
        out: A folder, for 000000.png and so on and settings.json; or a file named .npz, for uint8 `arr_0`
            (n, H, W, C) and, of conditional models, int64 `arr_1` of labels, with the settings in a .json beside it.
        first: Number of the first image.
        seed: Image i follows (seed, i) alone.
        labels: Of conditional models; see `Labels`.
        batch: Images at once.
        precision: As in `generate`.
        overwrite: Replace what an earlier call wrote.
        gif: Write the canvas of the first images filling up too: steps.gif in the folder, or a .gif beside the file.
        settings: What else to say of the samples, in JSON's types.
        reporter: Where progress goes.
        changes: As in `generate`.

    Returns:
        The folder or file.

    Raises:
        MageKitError: If something would be overwritten unasked, or `OUT.parts` holds samples of other settings.
        ValueError: If a number is outside its range.
    """
    n, first = whole_number("n", n, 1, MOST), whole_number("first", first, 0, LAST)
    source = Sampler(model, batch=batch, seed=seed, labels=labels, precision=precision, **changes)
    target = Path(out).resolve()  # what a link points to is written, and the link stays
    contents = {**(settings or {}), **describe_samples(source), "first": first, "images": n}
    if target.suffix.lower() == ".png":
        raise MageKitError(f"out: '{out}', must be a folder, of which each image is a file, or a file named {ARRAYS}")
    form = ArrayParts if target.suffix.lower() == ARRAYS else PictureParts
    parts: SampleParts = form(target, contents)
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(parts.hold(overwrite)) and None)
        todo = processes.on_first(lambda: [] if parts.has_moved() else parts.missing(source.batch))
        own = todo[processes.rank() :: processes.world()]
        processes.all_or_none(lambda: _work(source, parts, own, n, reporter or _reporter()))
        processes.on_first(lambda: _finish(source, parts, gif, overwrite))
    return Path(out)


def describe_samples(source: Sampler) -> dict[str, Any]:
    """Return what samples follow, beside their number, ready for JSON: of the same facts, they are the same."""
    model = source.model
    return {
        "seed": source.seed,
        "precision": generation_precision(source.precision, model).value,
        "image_size": list(model.tokenizer.image_size),
        "decoding": source.decoding.describe(),
        "labels": source.labels,
        "weights_sha256": weights_digest(model),
    }


def _work(source: Sampler, parts: SampleParts, own: list[tuple[int, int]], n: int, reporter: Reporter) -> None:
    """Make and write this process's batches; progress is of all, as if the others were as far."""
    steps, world = source.decoding.steps, processes.world()
    done = n * steps - world * steps * sum(count for _, count in own)
    with (
        prepare_to_generate(source.model, source.batch, source.precision),
        reporter.task(f"generating {n} images", n * steps, max(0, done)) as task,
    ):
        for start, count in own:
            samples = source.make(start, count, watch=_show(task, done, count * world))
            parts.add(start, cut_to_bytes(samples.images_BCHW), _labels(samples))
            done += steps * count * world


def _show(task: ProgressTask, done: int, images: int) -> Any:
    def watch(step: Step) -> None:
        task.update(max(0, done) + images * step.number)

    return watch


def _labels(samples: Generated) -> list[int] | None:
    return None if samples.labels_B is None else samples.labels_B.tolist()


def _finish(source: Sampler, parts: SampleParts, gif: bool, overwrite: bool) -> None:
    if gif and not parts.has_moved():
        animation = first_images(source.model, parts.first)
        source.make(parts.first, min(_ANIMATED, parts.count), watch=animation.watch)
        save_gif(animation.frames(), parts.folder / "steps.gif")
    labels = None if source.labels is None else np.array(source.labels, dtype=np.int64)
    numbers = np.arange(parts.first, parts.first + parts.count)
    parts.finish(None if labels is None else labels[numbers % len(labels)], overwrite)


def first_images(model: Mage, first: int) -> Animation:
    """Return an animation of a command's first images, of which the first has this number."""
    return Animation(model, _ANIMATED, _COLUMNS, picture_scale(model.tokenizer.image_size), first)


def picture_scale(size: tuple[int, ...]) -> int:
    """Return by how much images of this height and width are enlarged, for people to look at: twice up to 64 pixels."""
    return 2 if max(size) <= 64 else 1


def _reporter() -> Reporter:
    return Reporter() if processes.is_first() else Reporter.silent()
