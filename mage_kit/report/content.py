"""What a report shows of a run: pictures and figures, each with the reason where there is none.

Legend: C channels, H x W pixels, L tokens, V codes.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mage_kit.base.errors import MageKitError, PartsError
from mage_kit.base.files import read_json
from mage_kit.base.progress import ProgressTask
from mage_kit.evaluation.stored_results import result_files
from mage_kit.generation import generate
from mage_kit.images.pictures import grid_picture
from mage_kit.models.mage import Mage
from mage_kit.recipes.answers import kind_of
from mage_kit.recipes.recipe import Recipe
from mage_kit.report.charts import Chart
from mage_kit.store.folders import EMA_FILE, RECIPE_FILE, best_device
from mage_kit.store.loading import load
from mage_kit.tokenizers import Tokenizer

SAMPLES = 32
COLUMNS = 8
_SMALL = 64  # pixels: smaller images are enlarged
_LARGE = 4


@dataclass(frozen=True)
class Illustration:
    """A picture with words under it.

    Args:
        caption: The words.
        uri: The picture as a data URI.
        width: In pixels, as it is to be shown.
    """

    caption: str
    uri: str
    width: int


@dataclass
class Part:
    """A section of the page.

    Args:
        title: Its heading.
        note: A paragraph under it.
        pictures: What is shown.
        charts: Charts.
        rows: (what, value) lines of a table.
    """

    title: str
    note: str = ""
    pictures: list[Illustration] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)


def picture(image: Image.Image, caption: str, scale: int = 1) -> Illustration:
    """Return a picture for the page: PNG, small ones enlarged without smoothing."""
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return Illustration(caption, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width)


def scale_of(tokenizer: Tokenizer) -> int:
    """Return how far pictures of a tokenizer's size are enlarged."""
    side = max(tokenizer.image_size)
    return _LARGE if side <= _SMALL // 2 else 2 if side <= _SMALL else 1


def samples(run: Path, model: Mage, task: ProgressTask) -> Part:
    """Generate the same seeds with the raw and the mean weights."""
    part = Part("Samples", "The same seeds for each row of pictures; none was chosen.")
    try:
        model.check_generates("generation")
    except PartsError as error:
        part.note = f"None: {error.message}."
        return part
    models = {"raw weights": model}
    if (run / EMA_FILE).is_file():
        models["EMA weights"] = load(run, best_device(), weights="ema")
    for number, (name, other) in enumerate(models.items()):
        result = generate(other, SAMPLES, seed=0)
        sheet = grid_picture(result.images_BCHW, COLUMNS)
        words = "" if result.labels_B is None else ", each class in turn"
        part.pictures.append(
            picture(sheet, f"{name}, {other.decoding.steps} steps{words}", max(1, scale_of(other.tokenizer) // 2))
        )
        task.update(number + 1)
    return part


def metrics(run: Path) -> Part:
    """Return what was measured of the run before: demo, probe."""
    part = Part("Figures", "")
    whole = read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    for name, value in whole.items():
        if isinstance(value, float):
            part.rows.append((name.replace("_", " "), f"{value:.4f}"))
    notes = [str(whole[name]) for name in ("note", "frechet_note", "probe_note") if name in whole]
    has_results = bool(result_files(run))
    part.note = " ".join(notes) or (
        "" if has_results else "None measured; mage-kit eval probe-fast adds a linear probe."
    )
    return part


def any_recipe_of(run: Path) -> Recipe:
    """Read a run's recipe, of whatever kind.

    Raises:
        MageKitError: If the folder is none of a run.
    """
    if not (run / RECIPE_FILE).is_file():
        raise MageKitError(f"folder: '{run}', holds no {RECIPE_FILE}, so is no run")
    return Recipe.load(run / RECIPE_FILE)


def recipe_of(run: Path) -> Recipe:
    """Read the recipe of a masked model's run.

    Raises:
        MageKitError: If the folder is none of a run, or of something else.
    """
    recipe = any_recipe_of(run)
    if kind_of(recipe) != "mage":
        raise MageKitError(f"folder: '{run}', holds a {kind_of(recipe)}, must hold a masked model")
    return recipe
