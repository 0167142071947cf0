"""A run's model as a command asks for it: raw or mean weights, at the run's image size or at another."""

from __future__ import annotations

import re
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.models.mage import Mage
from mage_kit.recipes import at_size
from mage_kit.recipes.resizing import POSITIONS, resize_words
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load


def open_model(run: Path, *, ema: bool, image_size: str | None, reporter: Reporter) -> Mage:
    """Load a run's model.

    Args:
        run: Run or model folder.
        ema: Take the running mean of the run's weights.
        image_size: As "48" or "48x64"; None for the run's own.
        reporter: Told of positions that are resized.
    """
    size = None if image_size is None else read_size("image-size", image_size)
    model = load(run, best_device(), weights="ema") if ema else load(run, best_device())
    if size is None:
        return model
    result = at_size(model, size)
    if result is not model:
        learned = any(name in model.state_dict() for name in POSITIONS)
        words = resize_words(model.spec.grid, result.spec.grid) if learned else "no position is learned"
        reporter.say(f"image size {size[0]}x{size[1]}: {words}")
    return result


def read_size(name: str, text: str) -> tuple[int, int]:
    """Read "256" or "256x384" as height and width.

    Raises:
        MageKitError: If it is written otherwise.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", text)
    if match is None:
        raise MageKitError(f"{name}: '{text}', must be a number or HEIGHTxWIDTH, of 1 to 999999 pixels each")
    return int(match[1]), int(match[2] or match[1])
