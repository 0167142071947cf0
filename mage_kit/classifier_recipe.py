"""ClassifierRecipe: the JSON form of a classifier on a MAGE encoder, and of its training.

Fine-tuning, training from scratch on tokens, and the published linear probe are such recipes; paper: supplement,
Tables 11 to 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from mage_kit.classifier import Head, MageClassifier
from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.datasets.named import by_names
from mage_kit.embedding import EmbeddingConfig
from mage_kit.encoders import ENCODERS
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.fields import Positive, Probability
from mage_kit.files import read_json
from mage_kit.places import Collected, at
from mage_kit.recipe import Recipe
from mage_kit.recipe_base import RecipeBase, plugins_of, schema_of, seeded
from mage_kit.registry import ComponentConfig, NoWires, Strict
from mage_kit.sections import ClassifierTraining, Kernels, Pretrained
from mage_kit.tokenizers import TOKENIZERS, Tokenizer

SECTION = "classifier"  # what tells this recipe from a model's


def is_classifier(file: Path) -> bool:
    """True if a recipe file is a classifier's; False also where it cannot be read."""
    try:
        return SECTION in read_json(file)
    except MageKitError:
        return False


class ClassifierConfig(Strict):
    """Encoder and head."""

    classes: Positive = Field(description="Number of classes.")
    embedding: EmbeddingConfig = Field(EmbeddingConfig(), description="How tokens enter the encoder.")
    encoder: Annotated[ComponentConfig, ENCODERS.slot()]
    head: Head = Field(
        "linear",
        description="linear: norm and linear layer; probe: with batch norm, as the published probe has it.",
    )
    drop_path: Probability = Field(
        0.0, description="Probability that an image goes past the last block's parts, in training; 0 at the first."
    )


class ClassifierRecipe(RecipeBase):
    """A classifier's parts; with data and training, a run."""

    data: Annotated[ComponentConfig, DATASETS.slot()] | None = Field(None, description="Labelled images to train on.")
    validation: Annotated[ComponentConfig, DATASETS.slot()] | None = Field(
        None, description="Labelled images that the accuracy is measured on; null: none is."
    )
    classifier: ClassifierConfig
    pretrained: Pretrained | None = Field(None, description="Where encoder and embedding come from; null: nowhere.")
    training: ClassifierTraining | None = Field(None, description="How it is trained; null for a bare classifier.")
    kernels: Kernels = Field(Kernels(), description="Which implementations run.")

    @classmethod
    def of(cls, model: MageClassifier, name: str = "classifier") -> ClassifierRecipe:
        """Return the recipe of a classifier, without data and training.

        Raises:
            MageKitError: If a part's class is not registered.
        """
        return cls.parse(
            {
                "name": name,
                "plugins": plugins_of([model.tokenizer, model.encoder]),
                "tokenizer": TOKENIZERS.describe(model.tokenizer, weights=None),
                "classifier": {
                    "classes": model.classes,
                    "embedding": model.embedding.config.model_dump(mode="json"),
                    "encoder": ENCODERS.describe(model.encoder),
                    "head": model.kind,
                    "drop_path": model.drop_path,
                },
            }
        )

    def build_dataset(self) -> Dataset:
        """Return the labelled images to train on; opens their files.

        Raises:
            RecipeError: If the recipe has none, they cannot be opened, or their classes are not the classifier's.
        """
        return self._dataset("data", self.data)

    def build_validation(self, classes: Sequence[str] | None = None) -> Dataset | None:
        """Return the labelled images that accuracy is measured on; None where the recipe names none.

        Args:
            classes: Names of the classes that were learned, by number; None takes the images' own, by place.

        Raises:
            RecipeError: If they cannot be opened, or have a class that is none of these.
        """
        return None if self.validation is None else self._dataset("validation", self.validation, classes)

    def _dataset(self, name: str, config: ComponentConfig | None, classes: Sequence[str] | None = None) -> Dataset:
        if config is None:
            raise RecipeError([f"$.{name}: missing, this needs images"], self.name)
        with torch.device("meta"):
            tokenizer = self.build_tokenizer()
        with at(f"$.{name}", config):
            dataset = DATASETS.build(config, DatasetWires(tokenizer.image_size, tokenizer.channels))
            if classes and dataset.classes:
                dataset = by_names(dataset, classes)
        wanted, has = self.classifier.classes, len(dataset.classes)
        if has != wanted:
            what = f"{has} classes" if has else "no labels"
            raise RecipeError([f"$.classifier.classes and $.{name}: {wanted}, the data has {what}"], self.name)
        return dataset

    def build_model(self, tokenizer: Tokenizer | None = None) -> MageClassifier:
        """Return the classifier with weights initialised from the seed.

        Args:
            tokenizer: A trained one; None builds the recipe's.

        Returns:
            The classifier; its encoder is frozen where the recipe freezes a pretrained one, whose weights training
            fills in.

        Raises:
            RecipeError: If parts do not fit.
        """
        collected, parts = Collected(), self.classifier
        tokenizer = tokenizer or collected.attempt("$.tokenizer", None, self.build_tokenizer)
        with seeded(self.seed, "model"):
            encoder = collected.build("$.classifier.encoder", ENCODERS, parts.encoder, NoWires())
            collected.raise_if_any(self.name)
            assert tokenizer is not None and encoder is not None
            with at("$.classifier", parts):
                model = MageClassifier(
                    tokenizer=tokenizer,
                    encoder=encoder,
                    classes=parts.classes,
                    embedding=parts.embedding,
                    head=parts.head,
                    drop_path=parts.drop_path,
                )
        model.set_backend(self.kernels.backend)
        model.ask_attention(self.kernels.attention)
        if self.pretrained is not None and self.pretrained.freeze:
            model.freeze_encoder()
        return model

    def check(self) -> MageClassifier:
        """Build everything without memory; return the classifier on the meta device.

        Raises:
            RecipeError: With every problem found.
        """
        with torch.device("meta"):
            model = self.build_model()
        found = self._check_training(model) if self.training is not None else []
        if self.classifier.head == "probe" and self.training is not None and not model.frozen:
            found.append(
                "$.classifier.head and $.pretrained.freeze: a probe's encoder is frozen; name one under pretrained"
            )
        if found:
            raise RecipeError(found, self.name)
        return model

    def _check_training(self, model: MageClassifier) -> list[str]:
        training, found = self.training, []
        assert training is not None
        if self.data is None:
            found.append("$.data: missing, training needs it")
        mixes = [name for name in ("mixup", "cutmix") if getattr(training, name)]
        batches = {"batch": training.batch, "micro_batch": training.micro_batch}
        for name, size in batches.items():
            if mixes and size is not None and size % 2:
                found.append(f"$.training.{name}: {size}, must be even: {' and '.join(mixes)} take images by twos")
        if training.micro_batch is not None and training.batch % training.micro_batch:
            found.append(
                f"$.training.micro_batch: {training.micro_batch}, must divide $.training.batch ({training.batch})"
            )
        if training.optimizer == "lars" and training.layer_decay != 1:
            found.append(f"$.training.layer_decay: {training.layer_decay:g}, must be 1: lars has one rate")
        if training.layer_decay != 1 and not model.blocks:
            found.append(
                f"$.training.layer_decay and $.classifier.encoder: '{self.classifier.encoder.kind}' has no blocks"
            )
        if self.data is not None and self.data.kind == "token_cache" and mixes:
            found.append(f"$.data and $.training.{mixes[0]}: pixels are mixed before the tokenizer; tokens cannot be")
        if training.images_per_class is not None and training.batch > training.images_per_class * model.classes:
            most = training.images_per_class * model.classes
            found.append(f"$.training.batch: {training.batch}, must be at most images_per_class x classes ({most})")
        untrained = model.tokenizer.needs_training and self.tokenizer.get("weights") is None
        if untrained and self.pretrained is None:
            found.append("$.tokenizer.weights and $.pretrained: both null, the tokenizer would stay untrained")
        return found


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe | ClassifierRecipe:
    """Read a recipe file of either kind.

    Raises:
        RecipeError: With every problem of the recipe.
    """
    kind = ClassifierRecipe if is_classifier(path) else Recipe
    loaded: Recipe | ClassifierRecipe = kind.load(path, overrides or [])
    return loaded


def classifier_schema() -> dict[str, Any]:
    """Return the JSON Schema of classifiers' recipes, with every component registered now."""
    return schema_of(ClassifierRecipe, "mage_kit classifier recipe")
