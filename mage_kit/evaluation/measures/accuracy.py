"""A classifier measured again, its classes and the images' matched by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.version import versions
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.class_names import by_names
from mage_kit.datasets.stills import broken_facts
from mage_kit.evaluation.measures.base import MEASURES, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.splits import TESTS, published_views
from mage_kit.models.classifier import MageClassifier
from mage_kit.planning.passes import Passes
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import pixel_levels, validation_views, validation_words
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder, weights_digest
from mage_kit.store.loading import load_classifier
from mage_kit.training.folder import learned_classes
from mage_kit.training.validation import Accuracy, measure_accuracy

_BY_PLACE = "by their place in the listing: this classifier does not know the names of its classes"


@MEASURES.register("accuracy")
class AccuracyAgain(Measure):
    """Top-1 and top-5 of a trained or converted classifier on its validation images, or on others.

    Written to RUN/eval/accuracy-again.json, since training left accuracy.json. Classes are found by their names; some
    may be missing.
    """

    title: ClassVar[str] = "Accuracy"
    needs: ClassVar[Literal["mage", "classifier", "tokenizer"]] = "classifier"
    takes: ClassVar[frozenset[str]] = frozenset({"data", "weights", "processes"})
    file: ClassVar[str] = "accuracy-again"
    shown: ClassVar[tuple[str, ...]] = ("top1", "top5", "loss")

    def run(self, request: Request) -> Outcome:
        """Classify the evaluation view of every image, float32."""
        run, weights = request.run, request.weights
        require_folder(run)
        names = learned_classes(run)

        def open_all() -> tuple[MageClassifier, str, Dataset, str]:
            model = load_classifier(run, best_device(), weights=weights)
            recipe = Recipe.load(run / RECIPE_FILE)
            return model, recipe.name, *_images(recipe, model, request.data, names)

        model, name, images, place = processes.first_ahead(open_all)
        accuracy = measure_accuracy(model, images, strict=False, reporter=request.reporter)
        return Outcome(
            {
                "run": name,
                "weights": weights,
                "weights_sha256": weights_digest(model),
                "data": place,
                "data_sha256": processes.on_first(partial(fingerprint, images)),
                "test_images": accuracy.images,
                **broken_facts(accuracy.errors, images),
                "classes": model.classes,
                "classes_matched": "by name" if names else _BY_PLACE,
                "protocol": f"evaluation views, float32{_left_out(accuracy)}",
                "rows": {"classifier": accuracy.as_dict()},
                "versions": versions(),
            }
        )

    @classmethod
    def heading(cls, result: Any) -> str:
        """Tell training's own from one that was measured later."""
        return "Accuracy, measured again" if "classes_matched" in result else "Accuracy on the validation images"

    def passes(self, train: int, test: int) -> Passes:
        """Every test image once."""
        return Passes(tokenized=test, encoded=test)


def _left_out(accuracy: Accuracy) -> str:
    """What speaks against a figure of fewer images than there are."""
    total = accuracy.images + accuracy.broken
    return f"; {accuracy.broken} of {total} images cannot be read, and are left out" if accuracy.broken else ""


def _images(recipe: Recipe, model: MageClassifier, data: Path | None, names: tuple[str, ...]) -> tuple[Dataset, str]:
    """Return what is classified, and what it is, for people."""
    if data is None:
        images = recipe.build_validation(names)
        words = validation_words(recipe)
        assert images is not None
        return images, words
    own = validation_views(recipe)
    size, channels = model.tokenizer.image_size, model.tokenizer.channels
    place = next((data / name for name in TESTS if (data / name).is_dir()), data)
    views, levels = own or published_views(None, size), pixel_levels(recipe)
    images = ImageFolder(size, channels, path=str(place), augment=views, levels=levels)
    if names and images.classes:
        try:
            images = by_names(images, names)
        except MageKitError as error:
            raise MageKitError(f"data: '{place}': {error}") from None
    elif len(images.classes) != model.classes:
        raise MageKitError(f"data: '{place}', has {len(images.classes)} classes, the classifier {model.classes}")
    return images, str(place)
