"""Generated images as files, with the settings that made them in each PNG."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mage_kit.errors import MageKitError
from mage_kit.files import atomic, atomic_folder
from mage_kit.generation import Asked, generate, generation_precision
from mage_kit.loading import load
from mage_kit.pictures import grid_picture
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.schedules import SCHEDULES
from mage_kit.selections import SELECTIONS
from mage_kit.storage import RECIPE_FILE, best_device, require_folder

_COLUMNS = 8
_NUMBERED = re.compile(r"\d{6}\.png")
_SMALL = 64  # sheets of smaller images are enlarged, for people to look at


def generate_files(
    run: Path,
    n: int,
    *,
    seed: int,
    steps: int | None,
    batch: int,
    out: Path | None,
    separate: bool,
    overwrite: bool,
    precision: Asked,
    compile_: bool = False,
    ema: bool = False,
    reporter: Reporter,
) -> Path:
    """Generate images and write them.

    Args:
        run: Run or model folder.
        n: How many.
        seed: Image i follows (seed, i) alone.
        steps: Decoding steps; None for the recipe's.
        batch: Images at once.
        out: PNG, or folder with `separate`; None names one inside the run folder.
        separate: One PNG an image, at its own size, instead of one sheet.
        overwrite: Replace files.
        precision: What to compute in; "auto" follows the machine and the model's width.
        compile_: Compile the transformer blocks first.
        ema: Take the running mean of the run's weights.
        reporter: Where progress goes.

    Returns:
        The file or folder written.

    Raises:
        MageKitError: If something would be overwritten unasked.
    """
    require_folder(run)
    target = _target(out or run / f"generated-seed{seed}-n{n}{'' if separate else '.png'}", separate, overwrite)
    model = load(run, best_device(), weights="ema") if ema else load(run, best_device())
    decided = generation_precision(precision, model)
    if compile_:
        model.compile_blocks()
    with reporter.task(f"generating {n} images", n * (steps or model.decoding.steps)) as task:
        made = generate(
            model,
            n,
            seed=seed,
            steps=steps,
            batch=batch,
            precision=precision,
            on_progress=lambda done, _: task.update(done),
        )
    settings = {
        "run": Recipe.load(run / RECIPE_FILE).name,
        "seed": seed,
        "steps": steps or model.decoding.steps,
        "weights": "ema" if ema else "raw",
        "precision": decided.value,
        "schedule": SCHEDULES.describe(model.decoding.schedule),
        "selection": SELECTIONS.describe(model.decoding.selection),
    }
    _write_all(made.images_BCHW, target, separate, settings)
    return target


def _target(target: Path, separate: bool, overwrite: bool) -> Path:
    """Return the place to write, if it may be written."""
    taken = target.exists() and (not separate or not target.is_dir() or any(target.iterdir()))
    if taken and not overwrite:
        raise MageKitError(f"out: '{target}', exists; choose another or give --overwrite")
    if target.exists() and target.is_dir() != separate:
        raise MageKitError(f"out: '{target}', must be a {'folder' if separate else 'file'}")
    if target.is_dir() and not all(_NUMBERED.fullmatch(path.name) for path in target.iterdir()):
        raise MageKitError(f"out: '{target}', holds other files than generated images; choose another folder")
    return target


def _write_all(images_BCHW: Tensor, target: Path, separate: bool, settings: dict[str, object]) -> None:
    """Write one sheet, or one file an image."""
    if separate:
        with atomic_folder(target) as temporary:  # no picture of an earlier, larger call stays among the new ones
            for index in range(len(images_BCHW)):
                picture = grid_picture(images_BCHW[index : index + 1], 1)
                _write(picture, temporary / f"{index:06d}.png", {**settings, "index": index})
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scale = 2 if max(images_BCHW.shape[-2:]) <= _SMALL else 1
    sheet = grid_picture(images_BCHW, min(_COLUMNS, len(images_BCHW)), scale=scale)
    _write(sheet, target, {**settings, "images": len(images_BCHW)})


def _write(picture: Image.Image, path: Path, settings: dict[str, object]) -> None:
    info = PngInfo()
    info.add_text("mage_kit", json.dumps(settings))
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
