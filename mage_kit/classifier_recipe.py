"""ClassifierRecipe: the JSON form of a classifier on a MAGE encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from mage_kit.classifier import MageClassifier
from mage_kit.embedding import EmbeddingConfig
from mage_kit.encoders import ENCODERS
from mage_kit.errors import MageKitError
from mage_kit.fields import Positive
from mage_kit.files import read_json
from mage_kit.places import Collected, at
from mage_kit.recipe_base import RecipeBase, plugins_of, seeded
from mage_kit.registry import ComponentConfig, NoWires, Strict
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


class ClassifierRecipe(RecipeBase):
    """A classifier's parts, without data and training."""

    classifier: ClassifierConfig

    @classmethod
    def of(cls, model: MageClassifier, name: str = "classifier") -> ClassifierRecipe:
        """Return the recipe of a classifier.

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
                },
            }
        )

    def build_model(self, tokenizer: Tokenizer | None = None) -> MageClassifier:
        """Return the classifier with weights initialised from the seed.

        Args:
            tokenizer: A trained one; None builds the recipe's.

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
                return MageClassifier(
                    tokenizer=tokenizer, encoder=encoder, classes=parts.classes, embedding=parts.embedding
                )

    def check(self) -> MageClassifier:
        """Build everything without memory; return the classifier on the meta device.

        Raises:
            RecipeError: If parts do not fit.
        """
        with torch.device("meta"):
            return self.build_model()
