"""A picture of what a model in training makes by now."""

from __future__ import annotations

from pathlib import Path

from mage_kit.generation import generate
from mage_kit.model import Mage
from mage_kit.pictures import labelled_rows, save_picture

_SHOWN = 8
_SMALL = 64  # smaller images are enlarged, for people to look at


def draw_samples(models: list[tuple[str, Mage]], path: Path) -> None:
    """Generate the same seeds with each model and write them as labelled rows.

    Args:
        models: Label and model.
        path: PNG to write.
    """
    rows = [(label, generate(model, _SHOWN, seed=0).images_BCHW.cpu()) for label, model in models]
    scale = 2 if max(models[0][1].tokenizer.image_size) <= _SMALL else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(labelled_rows(rows, scale=scale), path)
