"""What a report shows of a run: pictures and figures, each with the reason where there is none.

Legend: C channels, H x W pixels, L tokens, V codes.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mage_kit.datasets import Dataset
from mage_kit.editing import predict_pixels, reconstruct
from mage_kit.errors import MageKitError
from mage_kit.files import read_json
from mage_kit.generation import generate
from mage_kit.loading import load
from mage_kit.model import Mage
from mage_kit.pictures import grid_picture
from mage_kit.progress import Task
from mage_kit.recipe import Recipe
from mage_kit.report.charts import Chart, codebook_chart
from mage_kit.storage import EMA_FILE, RECIPE_FILE, best_device

SAMPLES = 32
COLUMNS = 8
IMAGES = 4
RATIOS = (0.5, 0.75, 0.9)
_COUNTED = 512  # images whose tokens are counted
_SMALL = 64  # pixels: smaller images are enlarged
_LARGE = 4


@dataclass(frozen=True)
class Figure:
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
        figures: Pictures.
        charts: Charts.
        rows: (what, value) lines of a table.
    """

    title: str
    note: str = ""
    figures: list[Figure] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)


def picture(image: Image.Image, caption: str, scale: int = 1) -> Figure:
    """Return a picture for the page: PNG, small ones enlarged without smoothing."""
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    held = io.BytesIO()
    image.save(held, format="PNG", optimize=True)
    return Figure(caption, "data:image/png;base64," + base64.b64encode(held.getvalue()).decode(), image.width)


def scale_of(model: Mage) -> int:
    """Return how far pictures of a model's size are enlarged."""
    side = max(model.tokenizer.image_size)
    return _LARGE if side <= _SMALL // 2 else 2 if side <= _SMALL else 1


def samples(run: Path, model: Mage, task: Task) -> Part:
    """Generate the same seeds with the raw and the mean weights."""
    part = Part("Samples", "The same seeds for each row of pictures; none was chosen.")
    if not model.spec.discrete:
        part.note = f"None: generation needs codes, {type(model.tokenizer).__name__} has none."
        return part
    models = {"raw weights": model}
    if (run / EMA_FILE).is_file():
        models["EMA weights"] = load(run, best_device(), weights="ema")
    for number, (name, held) in enumerate(models.items()):
        made = generate(held, SAMPLES, seed=0)
        sheet = grid_picture(made.images_BCHW, COLUMNS)
        told = "" if made.labels_B is None else ", each class in turn"
        part.figures.append(picture(sheet, f"{name}, {held.decoding.steps} steps{told}", max(1, scale_of(held) // 2)))
        task.update(number + 1)
    return part


def reconstructions(models: dict[str, Mage], pictures: Sequence[Image.Image], where: str) -> Part:
    """Mask a share of the tokens and fill them in again, by each model: paper, figure 2."""
    part = Part("Reconstruction", f"{where}. Masked tokens are grey; each picture is masked at random.")
    for ratio in RATIOS:
        for name, model in models.items():
            rows = [_reconstructed(model, image, ratio, number) for number, image in enumerate(pictures)]
            sheet = _columns(rows)
            caption = f"{name}: {ratio:.0%} masked; original, what is left, filled in"
            if not model.spec.discrete:
                caption += (
                    " (predicted at once; mean and contrast of a patch are the original's where it predicts neither)"
                )
            part.figures.append(picture(sheet, caption, max(1, scale_of(model) // 2)))
    return part


def _reconstructed(model: Mage, image: Image.Image, ratio: float, seed: int) -> list[Image.Image]:
    """Return original, what is left, and filled in, at the model's size."""
    channels, (height, width) = model.tokenizer.channels, model.tokenizer.image_size
    shown = image.resize((width, height), Image.Resampling.BICUBIC) if image.size != (width, height) else image
    if not model.spec.discrete:
        return predict_pixels(model, shown, ratio, seed=seed)
    made = reconstruct(model, shown, ratio, seed=seed)
    grid = model.spec.grid
    cells = made.masked_NL[0].unflatten(0, (grid.height, grid.width)).numpy()
    veil = cells.repeat(height // grid.height, 0).repeat(width // grid.width, 1)
    pixels = np.asarray(made.seen)
    left = np.where(veil if channels == 1 else veil[..., None], np.uint8(128), pixels)
    return [made.seen, Image.fromarray(left), made.pictures[0]]


def _columns(rows: Sequence[Sequence[Image.Image]], gap: int = 2) -> Image.Image:
    """Lay rows of equal pictures out, two rows beside each other where there are many."""
    width, height = rows[0][0].size
    across = len(rows[0])
    canvas = Image.new(
        rows[0][0].mode, ((width + gap) * across * 2 + gap * 3, (height + gap) * -(-len(rows) // 2)), "white"
    )
    for number, row in enumerate(rows):
        left = (number % 2) * ((width + gap) * across + gap * 3)
        for column, image in enumerate(row):
            canvas.paste(image, (left + column * (width + gap), (number // 2) * (height + gap)))
    return canvas


def stills_of(recipe: Recipe) -> tuple[Dataset | None, str]:
    """Return the run's data set, or None and why there is none."""
    try:
        dataset = recipe.build_dataset()
        dataset.still(0)
    except (MageKitError, OSError) as error:
        return None, str(error)
    return dataset, ""


def codebook(model: Mage, dataset: Dataset, task: Task) -> Part:
    """Count which codes the tokenizer uses on the run's images."""
    count = min(_COUNTED, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    totals = torch.zeros(model.spec.codes or 0, dtype=torch.int64)
    for place, index in enumerate(chosen):
        view = torch.from_numpy(np.array(dataset.still(int(index)).views[0]))[None].float() / 255
        totals += torch.bincount(
            model.tokenizer.encode(view.to(model.device)).flatten().cpu(), minlength=model.spec.codes or 0
        )
        task.update(place + 1)
    p = totals.double() / totals.sum()
    perplexity = math.exp(float(torch.special.entr(p).sum()))
    used = int((totals > 0).sum())
    rows = [
        ("codes used", f"{used} of {len(totals)} ({used / len(totals):.0%})"),
        ("perplexity", f"{perplexity:.1f} (as many codes, used alike, would carry as much)"),
    ]
    return Part(
        "Codebook", f"On {count} images of the run's data.", charts=[codebook_chart(totals.tolist())], rows=rows
    )


def measured(run: Path) -> Part:
    """Return what was measured of the run before: demo, probe."""
    part = Part("Figures", "")
    whole = read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    probe = read_json(run / "probe.json") if (run / "probe.json").is_file() else {}
    for name, item in probe.items():
        if isinstance(item, dict) and "top1" in item:
            part.rows.append((f"{name.replace('_', ' ')}, top-1", f"{item['top1']:.4f}"))
    for name, value in whole.items():
        if isinstance(value, float):
            part.rows.append((name.replace("_", " "), f"{value:.4f}"))
    notes = [
        str(held[name]) for held in (probe, whole) for name in ("note", "frechet_note", "probe_note") if name in held
    ]
    part.note = " ".join(dict.fromkeys(notes)) or "None measured; mage-kit probe adds a linear probe."
    return part


def recipe_of(run: Path) -> Recipe:
    """Read a run's recipe.

    Raises:
        MageKitError: If the folder is none of a run.
    """
    if not (run / RECIPE_FILE).is_file():
        raise MageKitError(f"folder: '{run}', holds no {RECIPE_FILE}, so is no run")
    return Recipe.load(run / RECIPE_FILE)
