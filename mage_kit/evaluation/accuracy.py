"""A classifier measured again, its classes and the images' matched by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.named import by_names
from mage_kit.evaluation.splits import TESTS, own_augment, published_views
from mage_kit.models.classifier import MageClassifier
from mage_kit.recipes import Recipe
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder, weights_digest
from mage_kit.store.loading import load_classifier
from mage_kit.training.folder import learned_classes
from mage_kit.training.validation import measure_accuracy

_BY_PLACE = "by their place in the listing: this classifier does not know the names of its classes"


def accuracy(
    run: Path,
    data: Path | None,
    *,
    weights: Literal["raw", "ema"] = "raw",
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure a classifier again: on its recipe's validation images, or on others.

    Args:
        run: Folder of a classifier.
        data: Folder with val/, or with class folders, all of which are then classified; None for the recipe's. Its
            classes are found by their names; some may be missing.
        weights: Raw, or the running mean.
        reporter: Where progress goes.

    Returns:
        The result, ready for JSON.

    Raises:
        MageKitError: If there is no classifier, there are no images, or one is of a class that was not learned.
    """
    require_folder(run)
    learned = learned_classes(run)

    def opened() -> tuple[MageClassifier, str, Dataset, str]:
        model = load_classifier(run, best_device(), weights=weights)
        recipe = Recipe.load(run / RECIPE_FILE)
        return model, recipe.name, *_images(recipe, model, data, learned)

    model, name, images, told = processes.first_ahead(opened)
    found = measure_accuracy(model, images, reporter=reporter)
    return {
        "run": name,
        "weights": weights,
        "weights_sha256": weights_digest(model),
        "data": told,
        "data_sha256": processes.on_first(partial(fingerprint, images)),
        "test_images": found.images,
        "classes": model.classes,
        "classes_matched": "by name" if learned else _BY_PLACE,
        "protocol": "evaluation views, float32",
        "rows": {"classifier": found.as_dict()},
        "versions": versions(),
    }


def _images(recipe: Recipe, model: MageClassifier, data: Path | None, learned: tuple[str, ...]) -> tuple[Dataset, str]:
    """Return what is classified, and what it is, for people."""
    if data is None:
        held = recipe.build_validation(learned)
        if held is None or recipe.validation is None:
            raise MageKitError("data: the recipe names no validation images; name a folder with --data")
        where = getattr(recipe.validation, "path", None) or getattr(recipe.validation, "part", None) or ""
        return held, f"the recipe's validation images ({recipe.validation.kind} {where})".replace(" )", ")")
    own = own_augment(recipe.validation or recipe.data)
    size, channels = model.tokenizer.image_size, model.tokenizer.channels
    place = next((data / name for name in TESTS if (data / name).is_dir()), data)
    images: Dataset = ImageFolder(size, channels, path=str(place), augment=own or published_views(None, size))
    if learned and images.classes:
        try:
            images = by_names(images, learned)
        except MageKitError as error:
            raise MageKitError(f"data: '{place}': {error}") from None
    elif len(images.classes) != model.classes:
        raise MageKitError(f"data: '{place}', has {len(images.classes)} classes, the classifier {model.classes}")
    return images, str(place)
