"""What a report shows of a classifier: its curves, what it takes for what, and its surest mistakes.

Legend: B images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.editing import to_picture
from mage_kit.evaluation.run_images import run_validation
from mage_kit.images.pictures import labelled_sheets, side_by_side
from mage_kit.models.classifier import MageClassifier
from mage_kit.recipes import Recipe
from mage_kit.report.charts import confusion_chart
from mage_kit.report.content import Illustration, Part, picture
from mage_kit.report.own_images import still_of
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load_classifier

_LOOKED_AT = 512
_AT_ONCE = 64
_SHOWN = 16
_WIDE = 128  # pixels that a picture with its words is wide, at least
_CHARTED = 100  # classes; of more, a chart shows nothing


def predictions(run: Path, recipe: Recipe, reporter: Reporter) -> list[Part]:
    """Classify some of the recipe's validation images; or say why there are none."""
    title = "Predictions"
    try:
        images = run_validation(run, recipe)
        labels = None if images is None else images.labels()
    except (MageKitError, OSError) as error:
        return [Part(title, f"None: the validation images cannot be opened here ({error}).")]
    if images is None or labels is None:
        return [Part(title, "None: the recipe names no validation images.")]
    model = load_classifier(run, best_device())
    with reporter.task("predictions", min(_LOOKED_AT, len(images))) as task:
        places, scores_BK = [], []
        indices = np.linspace(0, len(images) - 1, min(_LOOKED_AT, len(images))).astype(int).tolist()
        for first in range(0, len(indices), _AT_ONCE):
            part = _classify(model, images, indices[first : first + _AT_ONCE])
            places += part[0]
            scores_BK.append(part[1])
            task.update(min(len(indices), first + _AT_ONCE))
    if not places:
        return [Part(title, "None: no validation image can be read here.")]
    return [_part(title, images, places, labels[places], torch.cat(scores_BK))]


@torch.no_grad()
def _classify(model: MageClassifier, images: Dataset, places: list[int]) -> tuple[list[int], torch.Tensor]:
    views = {place: view for place in places if (view := still_of(images, place)) is not None}
    if not views:
        return [], torch.zeros(0, model.classes)
    pixels = torch.from_numpy(np.stack(list(views.values()))).to(model.device).float() / 255
    return list(views), model.logits(pixels).float().softmax(dim=1).cpu()


def _part(title: str, images: Dataset, places: list[int], labels: np.ndarray, scores_BK: torch.Tensor) -> Part:
    sure_B, told_B = scores_BK.max(dim=1)
    wrong = np.flatnonzero(told_B.numpy() != labels)
    note = f"{len(places) - len(wrong)} of {len(places)} validation images, spread over all, are told right."
    part = Part(title, note)
    names = images.classes
    if 1 < len(names) <= _CHARTED:
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, (labels, told_B.numpy()), 1)
        part.charts.append(confusion_chart(counts, names))
    surest = sorted(wrong.tolist(), key=lambda row: -float(sure_B[row]))[:_SHOWN]
    if surest:
        cells = []
        for row in surest:
            words = f"{names[labels[row]]} as {names[int(told_B[row])]}, {float(sure_B[row]):.2f}"
            cells.append(labelled_sheets([(words, _cell(images.still(places[row]).views[0], len(words)))]))
        part.pictures.append(_sheet(cells))
    return part


def _cell(view: Any, letters: int) -> Image.Image:
    """Return an image with room for so many letters under one another."""
    image = to_picture(view).convert("RGB")
    scale = max(1, _WIDE // image.width)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    cell = Image.new("RGB", (max(image.width, 6 * letters + 4), image.height), "white")
    cell.paste(image, (0, 0))
    return cell


def _sheet(cells: list[Image.Image]) -> Illustration:
    rows = [side_by_side(cells[first : first + 4]) for first in range(0, len(cells), 4)]
    canvas = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    return picture(canvas, "Wrong, the surest first: what it is, what it was taken for, with which probability")
