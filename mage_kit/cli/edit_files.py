"""Edited pictures as files, with the settings that made them in each PNG and in a JSON beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, Unpack

from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic_folder, check_writable, write_json
from mage_kit.base.progress import Reporter
from mage_kit.cli.opening import open_model
from mage_kit.editing import Edited, EditOptions
from mage_kit.generation.animation import Animation
from mage_kit.images.image_files import load_image, open_image
from mage_kit.images.image_writing import save_gif, write_png
from mage_kit.images.pictures import side_by_side
from mage_kit.models.mage import Mage
from mage_kit.recipes.answers import pixel_levels
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import RECIPE_FILE, require_folder


class Make(Protocol):
    """The edit itself."""

    def __call__(self, model: Mage, image: Image.Image, **options: Unpack[EditOptions]) -> Edited:
        """Edit a picture with a model."""


_GREY = ("1", "L", "LA", "La", "I", "I;16", "F")
_OWN = re.compile(r"(\d{3,}|canvas|window|sheet|steps)\.(png|gif)|settings\.json")


def edit_files(
    run: Path,
    image: Path,
    make: Make,
    out: Path,
    options: EditOptions,
    *,
    ema: bool,
    image_size: str | None = None,
    gif: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Path:
    """Edit a picture and write all there is to see of it.

    Args:
        run: Run or model folder.
        image: File of the picture.
        make: The edit.
        out: Folder: 000.png and so on, canvas.png, window.png, sheet.png, settings.json, steps.gif if asked for.
        options: Of the edit.
        ema: Take the running mean of the run's weights.
        image_size: Of the model's window, as "512" or "512x384"; None for the run's own.
        gif: Write an animation of the first variant's canvas filling up.
        overwrite: Replace what an earlier edit left there.
        reporter: Where progress goes.

    Raises:
        MageKitError: If something would be overwritten unasked.
    """
    require_folder(run)
    _check_target(out, overwrite)
    picture = read_image(image)
    model = open_model(run, ema=ema, image_size=image_size, reporter=reporter)
    levels = pixel_levels(Recipe.load(run / RECIPE_FILE))
    pixels = picture if levels is None else load_image(picture, str(image), model.tokenizer.channels, levels=levels)
    total = options.get("n", 1) * (options.get("steps") or model.decoding.steps)
    animation = Animation(model)
    with reporter.task("painting", total) as task:
        options = {**options, "on_progress": lambda done, _: task.update(done)}
        result = make(model, pixels, **({**options, "watch": animation.watch} if gif else options))
    for note in _notes(picture, model, result):
        reporter.say(f"note: {note}")
    settings = {"run": Recipe.load(run / RECIPE_FILE).name, "weights": "ema" if ema else "raw", **result.settings}
    with atomic_folder(out) as temporary:
        for number, picture in enumerate(result.pictures):
            write_png(picture, temporary / f"{number:03d}.png", {**settings, "index": number})
        write_png(result.canvas, temporary / "canvas.png", settings)
        write_png(result.window, temporary / "window.png", settings)
        write_png(side_by_side([result.canvas, *result.pictures]), temporary / "sheet.png", settings)
        if gif:
            save_gif(animation.frames(), temporary / "steps.gif")
        write_json(temporary / "settings.json", settings)
    return out


def read_image(path: Path) -> Image.Image:
    """Open a picture for editing.

    Raises:
        MageKitError: If there is no such file, or it is no image.
    """
    if path.is_dir():
        raise MageKitError(f"'{path}': is a folder, must be a picture")
    if not path.is_file():
        raise MageKitError(f"'{path}': there is no such file")
    return open_image(path)


def _notes(picture: Image.Image, model: Mage, result: Edited) -> list[str]:
    """What a picture loses, and where it has no say, in words."""
    channels, notes = model.tokenizer.channels, []
    if channels == 1 and picture.mode not in _GREY:
        notes.append("the model knows grey alone: the picture is edited, and written, in grey")
    if channels != 4 and ("A" in picture.mode or "transparency" in picture.info):
        notes.append("the model knows no transparency: transparent places turn white")
    if not result.settings["known_tokens"]:
        count = result.masked_NL.shape[1]
        notes.append(
            f"none of the {count} tokens of the window is known: nothing of the picture has a say in what is new"
        )
    return notes


def _check_target(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise MageKitError(f"out: '{out}', is a file, must be a folder")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if names and not overwrite:
        raise MageKitError(f"out: '{out}', is not empty; choose another folder or give --overwrite")
    foreign = [name for name in names if not _OWN.fullmatch(name)]
    check_writable(out)
    if foreign:
        raise MageKitError(f"out: '{out}', holds {foreign[0]} too, which no edit wrote; choose another folder")
