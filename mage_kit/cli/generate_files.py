"""Generated images as files, with the settings that made them in each PNG: a sheet, a folder, or one .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, write_json
from mage_kit.base.progress import Reporter
from mage_kit.cli.opening import open_model
from mage_kit.generation import Asked, Labels, Sampler, generate
from mage_kit.generation.sample_files import describe_samples, first_images, picture_scale, write_samples
from mage_kit.generation.sample_place import ARRAYS, check_target
from mage_kit.images.image_writing import save_gif, write_png
from mage_kit.images.pictures import grid_picture
from mage_kit.models.decoding import DecodingChanges
from mage_kit.models.mage import Mage
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import RECIPE_FILE, require_folder

_COLUMNS = 8
_MOST = 4096  # images of a sheet, all of which memory holds


def is_sheet(n: int, out: Path | None, separate: bool) -> bool:
    """Return whether images are to be one picture; else they are a file each, or an .npz.

    Raises:
        MageKitError: If they are too many for one, or the place has another name than its form asks for.
    """
    suffix = "" if out is None else out.suffix.lower()
    if separate or suffix == ARRAYS:
        if separate and suffix in (ARRAYS, ".png"):
            raise MageKitError(f"out: '{out}', with --separate it must be a folder")
        return False
    if out is not None and suffix != ".png":
        words = f"must be named .png; its settings go beside it, into a .json; or {ARRAYS}, or a folder (--separate)"
        raise MageKitError(f"out: '{out}', {words}")
    if n > _MOST:
        raise MageKitError(f"n: {n}, a sheet holds {_MOST} images at most; give --separate, or --out FILE{ARRAYS}")
    return True


def generate_files(
    run: Path,
    n: int,
    *,
    first: int = 0,
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
        first: Number of the first image.
        seed: Image i follows (seed, i) alone.
        labels: Classes, of conditional models; None for each in turn.
        changes: What to change of the recipe's decoding.
        batch: Images at once.
        out: PNG, the settings as JSON beside it; .npz; or folder with `separate`. None names one in the run folder.
        separate: One PNG an image, at its own size, instead of one sheet.
        overwrite: Replace files.
        precision: What to compute in; "auto" follows the machine and the model's width.
        compile_: Compile the transformer blocks first.
        ema: Take the running mean of the run's weights.
        image_size: As "512" or "512x384"; None for the run's own.
        gif: Write an animation of the canvas filling up too, of the first images.
        reporter: Where progress goes.

    Returns:
        The file or folder written.

    Raises:
        MageKitError: If something would be overwritten unasked.
    """
    require_folder(run)
    sheet = is_sheet(n, out, separate)
    target = out or run / _name(n, first, seed, image_size, sheet)
    if sheet:
        check_target(target, overwrite, folder=False)
    model = open_model(run, ema=ema, image_size=image_size, reporter=reporter)
    if compile_:
        model.compile_blocks()
    settings: dict[str, Any] = {"run": Recipe.load(run / RECIPE_FILE).name, "weights": "ema" if ema else "raw"}
    request: Any = {"first": first, "seed": seed, "labels": labels, "batch": batch, "precision": precision, **changes}
    if sheet:
        _make_sheet(model, n, target, settings, request, gif, reporter)
    else:
        write_samples(model, n, target, overwrite=overwrite, gif=gif, settings=settings, reporter=reporter, **request)
    return target


def _name(n: int, first: int, seed: int, image_size: str | None, sheet: bool) -> str:
    words = [f"generated-seed{seed}-n{n}", f"first{first}" if first else "", image_size or ""]
    return "-".join(filter(None, words)) + (".png" if sheet else "")


def _make_sheet(
    model: Mage, n: int, target: Path, settings: dict[str, Any], request: dict[str, Any], gif: bool, reporter: Reporter
) -> None:
    """Generate images and write them as one picture."""
    first = request["first"]
    animation, source = first_images(model, first), Sampler(model, **request)
    watch = animation.watch if gif else None
    with reporter.task(f"generating {n} images", n * source.decoding.steps) as task:
        result = generate(model, n, on_progress=lambda done, _: task.update(done), watch=watch, **request)
    labels = None if result.labels_B is None else result.labels_B.tolist()
    settings |= {**describe_samples(source), "labels": labels, "first": first, "images": n}
    picture = grid_picture(result.images_BCHW, min(_COLUMNS, n), scale=picture_scale(model.tokenizer.image_size))
    _write_sheet(picture, target, settings, animation.frames())


def _write_sheet(sheet: Image.Image, target: Path, settings: dict[str, Any], frames: list[Image.Image]) -> None:
    """Write all images as one picture, settings and animation beside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    animation, settings_file = target.with_suffix(".gif"), target.with_suffix(".json")
    if frames:
        settings["animation"] = animation.name
        save_gif(frames, animation)
    elif settings_file.exists() and "animation" in read_json(settings_file):
        animation.unlink(missing_ok=True)  # it shows the images that this sheet replaces
    write_png(sheet, target, settings)
    write_json(settings_file, settings)
