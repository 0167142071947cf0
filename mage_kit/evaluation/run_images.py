"""The images of a run, where pictures of them are to be shown: only those that the run was trained on.

A recipe that a stranger wrote may name any folder of its reader. What the run was trained and measured on stands beside
it as digests of names, sizes and bytes, which nobody can write who does not have the images.
"""

from __future__ import annotations

import json
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.base import fingerprint, identity_of
from mage_kit.images.transforms import Augment
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import held_out_images, pixel_levels, training_views
from mage_kit.training.folder import DATA_FILE, learned_classes
from mage_kit.training.validation import ACCURACY_FILE


def run_images(run: Path, recipe: Recipe) -> Dataset:
    """Open the images of a run.

    Args:
        run: Its folder.
        recipe: Its recipe.

    Raises:
        MageKitError: If there are none, or they are not those that the run was trained on.
    """
    images = recipe.build_dataset()
    file = run / DATA_FILE
    if not file.is_file():
        raise MageKitError(f"'{run}' holds no {DATA_FILE}, which would say that these are the images of its training")
    if read_json(file) != json.loads(json.dumps(identity_of(images))):
        raise MageKitError(f"the images that its recipe names are not those of its training ({DATA_FILE})")
    return images


def images_to_look_at(recipe: Recipe, folder: Path | None) -> tuple[Dataset, str]:
    """Open images for a measure that needs no labels; return which they are, in words.

    Args:
        recipe: Of the run.
        folder: Of other images; None for the run's own, those that it holds out where its data knows such a part.

    Raises:
        MageKitError: If there are none.
    """
    if folder is None:
        images, where = held_out_images(recipe)
        return images, f"the run's own images, {where}"
    tokenizer = recipe.build_tokenizer()
    views = training_views(recipe) or Augment()
    opened = ImageFolder(
        tokenizer.image_size, tokenizer.channels, path=str(folder), augment=views, levels=pixel_levels(recipe)
    )
    return opened, str(folder)


def run_validation(run: Path, recipe: Recipe) -> Dataset | None:
    """Open the images that a classifier was measured on at the end of its training; None where its recipe names none.

    Raises:
        MageKitError: If they cannot be opened, or are others.
    """
    images = recipe.build_validation(learned_classes(run))
    if images is None:
        return None
    file = run / ACCURACY_FILE
    measured = read_json(file).get("data_sha256") if file.is_file() else None
    if measured != fingerprint(images):
        raise MageKitError(f"the images that its recipe names are not those that it was measured on ({ACCURACY_FILE})")
    return images
