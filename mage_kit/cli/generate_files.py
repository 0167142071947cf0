"""Generated images as files, with the settings that made them in each PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic_folder, check_writable, read_json, write_json
from mage_kit.base.progress import Reporter
from mage_kit.cli.opening import open_model
from mage_kit.generation import Asked, Labels, generate, generation_precision
from mage_kit.generation.animation import Animation
from mage_kit.images.image_writing import save_gif, write_png
from mage_kit.images.pictures import grid_picture
from mage_kit.models.decoding import Decoding, DecodingChanges
from mage_kit.models.mage import Mage
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import RECIPE_FILE, require_folder

_COLUMNS = 8
_ANIMATED = 16  # images of an animation
_NUMBERED = re.compile(r"\d{6}\.png|settings\.json|steps\.gif")
_SMALL = 64  # pixels: sheets of smaller images are enlarged


def generate_files(
    run: Path,
    n: int,
    *,
    seed: int = 0,
    labels: Labels = None,
    changes: DecodingChanges,
    batch: int = 64,
    out: Path | None = None,
    separate: bool = False,
    overwrite: bool = False,
    precision: Asked = "auto",
    compile_: bool = False,
    ema: bool = False,
    image_size: str | None = None,
    gif: bool = False,
    reporter: Reporter,
) -> Path:
    """Generate images and write them.

    Args:
        run: Run or model folder.
        n: How many.
        seed: Image i follows (seed, i) alone.
        labels: Classes, of conditional models; None for each in turn.
        changes: What to change of the recipe's decoding.
        batch: Images at once.
        out: PNG, or folder with `separate`, the settings as JSON beside or inside; None names one in the run folder.
        separate: One PNG an image, at its own size, instead of one sheet.
        overwrite: Replace files.
        precision: What to compute in; "auto" follows the machine and the model's width.
        compile_: Compile the transformer blocks first.
        ema: Take the running mean of the run's weights.
        image_size: As "512" or "512x384"; None for the run's own.
        gif: Write an animation of the canvas filling up too, of the first images, beside the sheet.
        reporter: Where progress goes.

    Returns:
        The file or folder written.

    Raises:
        MageKitError: If something would be overwritten unasked.
    """
    require_folder(run)
    name = f"generated-seed{seed}-n{n}" + ("" if image_size is None else f"-{image_size}")
    target = _target(out or run / (name + ("" if separate else ".png")), separate, overwrite)
    model = open_model(run, ema=ema, image_size=image_size, reporter=reporter)
    if compile_:
        model.compile_blocks()
    animation = Animation(model, _ANIMATED, _COLUMNS // 2, _scale(model.tokenizer.image_size))
    decoding = model.decoding.changed(changes)
    with reporter.task(f"generating {n} images", n * decoding.steps) as task:
        result = generate(
            model, n, seed=seed, labels=labels, batch=batch, precision=precision,
            on_progress=lambda done, _: task.update(done), watch=animation.watch if gif else None, **changes,
        )  # fmt: skip
    settings = {"run": Recipe.load(run / RECIPE_FILE).name, "seed": seed, "weights": "ema" if ema else "raw"}
    settings |= _settings(model, decoding, generation_precision(precision, model).value, result.labels_B)
    (_write_each if separate else _write_sheet)(result.images_BCHW, target, settings, animation.frames())
    return target


def _settings(model: Mage, decoding: Decoding, precision: str, labels_B: Tensor | None) -> dict[str, Any]:
    labels, size = None if labels_B is None else labels_B.tolist(), list(model.tokenizer.image_size)
    return {"precision": precision, "image_size": size, "decoding": decoding.describe(), "labels": labels}


def _target(target: Path, separate: bool, overwrite: bool) -> Path:
    """Return the place to write, if it may be written."""
    check_writable(target)
    if not separate and target.suffix.lower() != ".png":
        raise MageKitError(f"out: '{target}', must be named .png; its settings go beside it, into a .json")
    clash = target.exists() and (not separate or not target.is_dir() or any(target.iterdir()))
    beside = [] if separate else [target.with_suffix(suffix) for suffix in (".json", ".gif")]
    for place in [*([target] if clash else []), *(path for path in beside if path.exists())]:
        if not overwrite:
            raise MageKitError(f"out: '{place}', exists; choose another or give --overwrite")
    settings = target.with_suffix(".json")
    if not separate and settings.exists() and "decoding" not in read_json(settings):
        raise MageKitError(
            f"out: '{target}', its settings would replace '{settings}', which is no picture's; choose another"
        )
    if target.exists() and target.is_dir() != separate:
        raise MageKitError(f"out: '{target}', must be a {'folder' if separate else 'file'}")
    if target.is_dir() and not all(_NUMBERED.fullmatch(path.name) for path in target.iterdir()):
        raise MageKitError(f"out: '{target}', holds other files than generated images; choose another folder")
    return target


def _write_each(images_BCHW: Tensor, folder: Path, settings: dict[str, Any], frames: list[Image.Image]) -> None:
    """Write a file an image, settings and animation beside."""
    labels: list[int] | None = settings["labels"]
    with atomic_folder(folder) as temporary:  # no picture of an earlier, larger call stays among the new ones
        for index in range(len(images_BCHW)):
            picture = grid_picture(images_BCHW[index : index + 1], 1)
            own = {**settings, "index": index, "labels": labels[index] if labels else None}
            write_png(picture, temporary / f"{index:06d}.png", own)
        write_json(temporary / "settings.json", {**settings, "images": len(images_BCHW)})
        if frames:
            save_gif(frames, temporary / "steps.gif")


def _write_sheet(images_BCHW: Tensor, target: Path, settings: dict[str, Any], frames: list[Image.Image]) -> None:
    """Write all images as one picture, settings and animation beside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet = grid_picture(images_BCHW, min(_COLUMNS, len(images_BCHW)), scale=_scale(images_BCHW.shape[-2:]))
    animation, settings_file = target.with_suffix(".gif"), target.with_suffix(".json")
    settings = {**settings, "images": len(images_BCHW)}
    if frames:
        settings["animation"] = animation.name
        save_gif(frames, animation)
    elif settings_file.exists() and "animation" in read_json(settings_file):
        animation.unlink(missing_ok=True)  # it shows the images that this sheet replaces
    write_png(sheet, target, settings)
    write_json(settings_file, settings)


def _scale(size: Sequence[int]) -> int:
    """Small images are enlarged, for people to look at."""
    return 2 if max(size) <= _SMALL else 1
