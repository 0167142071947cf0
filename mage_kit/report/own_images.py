"""Pictures of a run's own data, for its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.datasets import Dataset
from mage_kit.editing import to_picture
from mage_kit.evaluation.run_images import run_images
from mage_kit.recipes.recipe import Recipe


def stills_of(run: Path, recipe: Recipe) -> tuple[Dataset | None, str]:
    """Return the images that a run was trained on, or None and why there are none."""
    try:
        dataset = run_images(run, recipe)
        if not some_stills(dataset, 1):
            return None, "no image of it can be read"
    except (MageKitError, OSError) as error:
        return None, str(error)
    return dataset, ""


def still_of(dataset: Dataset, index: int) -> Any:
    """Return an evaluation view, uint8 (C, H, W), or None where the image is broken."""
    try:
        return dataset.still(index).views[0]
    except BrokenImageError:
        return None


def some_stills(dataset: Dataset, count: int) -> list[Image.Image]:
    """Return evaluation views spread over the data, as pictures; broken images are passed over."""
    pictures: list[Image.Image] = []
    step = max(1, len(dataset) // (2 * count))
    for place in range(count):
        start = (2 * place + 1) * len(dataset) // (2 * count)
        views = (still_of(dataset, index) for index in range(start, min(len(dataset), start + step)))
        view = next((view for view in views if view is not None), None)
        pictures += [] if view is None else [to_picture(view)]
    return pictures
