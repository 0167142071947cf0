"""Recipe: the JSON form of a run. One file, one run; every problem at once, with its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field

from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.decoders import DECODERS, DecoderWires
from mage_kit.decoding import Decoding
from mage_kit.encoders import ENCODERS
from mage_kit.errors import RecipeError
from mage_kit.losses import LOSSES, Loss, LossWires
from mage_kit.mask_ratios import MASK_RATIOS
from mage_kit.model import Mage, Weighted
from mage_kit.paddings import PADDINGS, PaddingWires
from mage_kit.places import Collected, at
from mage_kit.recipe_base import RecipeBase, plugins_of, schema_of, seeded
from mage_kit.registry import ComponentConfig, NoWires
from mage_kit.schedules import SCHEDULES
from mage_kit.sections import Evaluation, Generation, Kernels, ModelConfig, Pretrained, TokenizerTraining, Training
from mage_kit.selections import SELECTIONS
from mage_kit.tokenizers import TOKENIZERS, Tokenizer


class Recipe(RecipeBase):
    """A run, or, without data and training, a model.

    Load one with `Recipe.load`; compose parts in Python with `Mage` instead where JSON is in the way.
    """

    data: Annotated[ComponentConfig, DATASETS.slot()] | None = Field(None, description="Images; null for a bare model.")
    model: ModelConfig
    pretrained: Pretrained | None = Field(
        None, description="Encoder to start from, or to keep; null: everything is trained from random weights."
    )
    losses: Annotated[list[Annotated[ComponentConfig, LOSSES.slot()]], Field(min_length=1)]
    tokenizer_training: TokenizerTraining | None = Field(None, description="First stage; null if nothing is to train.")
    training: Training | None = Field(None, description="Second stage; null for a bare model.")
    generation: Generation
    evaluation: Evaluation = Field(Evaluation(), description="How a run is measured.")
    kernels: Kernels = Field(Kernels(), description="Which implementations run.")

    @classmethod
    def parse(
        cls, data: Any, overrides: Sequence[str] = (), source: str = "recipe", folder: Path | None = None
    ) -> Recipe:
        """Validate JSON data as a recipe; see `load`."""
        if isinstance(data, dict) and "classifier" in data and "model" not in data:
            raise RecipeError(["$.classifier: this is a classifier's recipe, of which train and check know"], source)
        return super().parse(data, overrides, source, folder)

    @classmethod
    def of(cls, model: Mage, name: str = "model") -> Recipe:
        """Return the recipe of a model composed in Python, without data and training.

        Raises:
            MageKitError: If a part's class is not registered.
        """
        parts = {
            "mask_ratio": MASK_RATIOS.describe(model.mask_ratio),
            "ratio_group": model.ratio_group,
            "drop": model.drop,
            "embedding": model.embedding.config.model_dump(mode="json"),
            "encoder": ENCODERS.describe(model.encoder),
            "padding": PADDINGS.describe(model.padding),
            "decoder": DECODERS.describe(model.decoder),
        }
        losses = [
            LOSSES.describe(cast(Loss, loss), weight=weight)
            for loss, weight in zip(model.losses, model.loss_weights, strict=True)
        ]
        tokenizer = TOKENIZERS.describe(model.tokenizer, weights=None)
        return cls.parse(
            {
                "name": name,
                "plugins": plugins_of(_parts(model)),
                "tokenizer": tokenizer,
                "model": parts,
                "losses": losses,
                "generation": model.decoding.describe(),
                "kernels": {"backend": model.backend, "attention": model.attention},
            }
        )

    # -- building ----------------------------------------------------------------------------------------------

    def build_dataset(self) -> Dataset:
        """Return the data set; opens its files.

        Raises:
            RecipeError: If the recipe has no data, or it cannot be opened.
        """
        if self.data is None:
            raise RecipeError(["$.data: missing, this needs images"], self.name)
        with torch.device("meta"):
            tokenizer = self.build_tokenizer()
        with at("$.data", self.data):
            return DATASETS.build(self.data, DatasetWires(tokenizer.image_size, tokenizer.channels))

    def build_model(self, tokenizer: Tokenizer | None = None) -> Mage:
        """Return the model with weights initialised from the seed.

        Args:
            tokenizer: A trained one; None builds the recipe's.

        Returns:
            The model; its encoder is frozen where the recipe freezes a pretrained one, whose weights training fills in.

        Raises:
            RecipeError: If parts do not fit; names the paths of both.
        """
        collected = Collected()
        tokenizer = tokenizer or collected.attempt("$.tokenizer", None, self.build_tokenizer)
        parts = self.model
        with seeded(self.seed, "model"):
            mask_ratio = collected.build("$.model.mask_ratio", MASK_RATIOS, parts.mask_ratio, NoWires())
            encoder = collected.build("$.model.encoder", ENCODERS, parts.encoder, NoWires())
            decoding = collected.attempt("$.generation", None, self.decoding)
            decoder = padding = None
            losses: list[Weighted] = []
            if tokenizer is not None and encoder is not None:
                wires = DecoderWires(encoder.dim, tokenizer.spec.grid.size)
                decoder = collected.build("$.model.decoder", DECODERS, parts.decoder, wires)
                for number, config in enumerate(self.losses):
                    wired = LossWires(tokenizer.spec, encoder.dim)
                    loss = collected.build(f"$.losses[{number}]", LOSSES, config, wired)
                    losses += [] if loss is None else [Weighted(loss, config.get("weight"))]
            if decoder is not None:
                padding = collected.build("$.model.padding", PADDINGS, parts.padding, PaddingWires(decoder.dim))
            collected.raise_if_any(self.name)
            assert tokenizer and encoder and decoder and padding and mask_ratio and decoding
            with at("$.model"):
                model = Mage(
                    tokenizer=tokenizer,
                    encoder=encoder,
                    decoder=decoder,
                    losses=losses,
                    mask_ratio=mask_ratio,
                    padding=padding,
                    drop=parts.drop,  # type: ignore[arg-type]  # "lowest" is checked by the validator
                    ratio_group=parts.ratio_group,
                    embedding=parts.embedding,
                    decoding=decoding,
                )
                model.set_backend(self.kernels.backend)
                model.ask_attention(self.kernels.attention)
                if self.pretrained is not None and self.pretrained.freeze:
                    model.freeze_encoder()
                return model

    def decoding(self) -> Decoding:
        """Return the default way to generate."""
        with at("$.generation.schedule", self.generation.schedule):
            schedule = SCHEDULES.build(self.generation.schedule, NoWires())
        with at("$.generation.selection", self.generation.selection):
            selection = SELECTIONS.build(self.generation.selection, NoWires())
        asked = self.generation
        return Decoding(
            schedule, selection, asked.steps, asked.token_temperature, asked.top_k, asked.top_p, asked.guidance
        )

    def check(self) -> Mage:
        """Build everything without memory and without reading data; return the model on the meta device.

        Raises:
            RecipeError: With every problem found.
        """
        with torch.device("meta"):
            model = self.build_model()
        found = []
        for path, test in (
            ("$.model.mask_ratio", lambda: model.draw_ratios(4, torch.Generator().manual_seed(0))),
            ("$.generation.schedule", lambda: model.decoding.schedule.check(model.decoding.steps)),
        ):
            try:
                test()
            except ValueError as error:
                found.append(f"{path}: {error}")
        augment = getattr(self.data, "augment", None)
        if augment is not None and augment.views < model.views:
            number = next(i for i, loss in enumerate(model.losses) if getattr(loss, "needs_views", 1) > augment.views)
            found.append(
                f"$.losses[{number}] and $.data.augment.views: the loss needs {model.views} views, "
                f"the data gives {augment.views}"
            )
        untrained = model.tokenizer.needs_training and self.tokenizer.get("weights") is None
        if not model.tokenizer.needs_training and self.tokenizer.get("weights") is not None:
            found.append("$.tokenizer.weights: given, but this tokenizer has nothing to load; must be null")
        if self.generation.guidance is not None and model.decoder.classes is None:
            found.append(
                f"$.generation.guidance and $.model.decoder: guidance needs a decoder that is told the class, "
                f"'{self.model.decoder.kind}' is not; must be null"
            )
        untrained = untrained and self.pretrained is None
        if untrained and self.training is not None and self.tokenizer_training is None:
            found.append("$.tokenizer.weights and $.tokenizer_training: both null, the tokenizer would stay untrained")
        if self.training is not None:
            found += _check_batches(self.training)
            if self.training.samples_every is not None and not model.spec.discrete:
                found.append("$.training.samples_every: given, but generation needs codes, must be null")
        if found:
            raise RecipeError(found, self.name)
        return model


def _parts(model: Mage) -> list[object]:
    """Everything in a model whose class a plug-in may define."""
    parts = [model.tokenizer, model.mask_ratio, model.encoder, model.padding, model.decoder, *model.losses]
    return [*parts, model.decoding.schedule, model.decoding.selection]


def _check_batches(training: Training) -> list[str]:
    micro = training.micro_batch
    if micro is not None and training.batch % micro:
        return [f"$.training.micro_batch: {micro}, must divide $.training.batch ({training.batch})"]
    return []


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, with every component registered now."""
    return schema_of(Recipe, "mage_kit recipe")
