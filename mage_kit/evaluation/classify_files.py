"""Image files through a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mage_kit.base.errors import MageKitError
from mage_kit.images.image_files import load_image, open_image
from mage_kit.images.transforms import centre_view, to_array
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import pixel_levels
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder
from mage_kit.store.loading import load_classifier


def classify_files(source: Path, files: Sequence[Path], top: int) -> dict[str, list[tuple[int, float]]]:
    """Return the likeliest classes of each image, with their probabilities, best first.

    Each image is cut to the model's shape around its centre and resized (bicubic).

    Args:
        source: Classifier folder.
        files: Image files.
        top: How many classes.

    Raises:
        MageKitError: If a file cannot be decoded, or the source holds no classifier.
    """
    require_folder(source)
    model = load_classifier(source, best_device())
    if top < 1 or top > model.classes:
        raise MageKitError(f"top: {top}, must be between 1 and the number of classes ({model.classes})")
    recipe = source / RECIPE_FILE
    levels = pixel_levels(Recipe.load(recipe)) if recipe.is_file() else None
    size, channels = model.tokenizer.image_size, model.tokenizer.channels
    likeliest = {}
    for file in files:
        with open_image(file) as picture:
            view = centre_view(load_image(picture, str(file), channels, levels=levels), size)
        image = torch.from_numpy(to_array(view)).to(model.device).float()[None] / 255
        probabilities, classes = model.logits(image)[0].softmax(dim=0).topk(top)
        likeliest[str(file)] = list(zip(classes.tolist(), probabilities.tolist(), strict=True))
    return likeliest
