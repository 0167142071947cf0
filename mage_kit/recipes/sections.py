"""Sections of a recipe: what stands under model, kernels, evaluation and the rest, with bounds and prose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from mage_kernels import Backend
from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from mage_kit.base.fields import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.signature import ComponentConfig, Strict
from mage_kit.decoders import DECODERS
from mage_kit.encoders import ENCODERS
from mage_kit.heads import HEADS
from mage_kit.layers.embedding import EmbeddingConfig
from mage_kit.losses import LOSSES
from mage_kit.mask_ratios import MASK_RATIOS
from mage_kit.models.classifier import Head
from mage_kit.models.decoding import MAX_STEPS
from mage_kit.models.guidance import Guidance
from mage_kit.paddings import PADDINGS
from mage_kit.schedules import SCHEDULES
from mage_kit.selections import SELECTIONS
from mage_kit.tokenizers import TOKENIZERS


def _drop(value: Any) -> Any:
    if value == "lowest":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)  # 0 and 0.0 are one recipe, of one fingerprint
    raise PydanticCustomError("drop", "{value}, must lie in [0, 1] or be 'lowest'", {"value": json.dumps(value)})


def _compiled(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("compile", "{value}, must be 'auto', true or false", {"value": json.dumps(value)})


Compiled = Annotated[
    Literal["auto"] | bool,
    PlainValidator(_compiled),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "boolean"}]}),
]

Drop = Annotated[
    float | str,
    PlainValidator(_drop),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "lowest"}]}),
]


AttentionForm = Literal["auto", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "xformers", "matmul", "reference"]
"""`mage_kernels.attention.Implementation`, or auto: one list, so that a wrong name is one problem."""


class Pretrained(Strict):
    """Where weights come from, instead of random initialisation; the tokenizer must be theirs."""

    weights: str = Field(description="Run or model folder; its tokenizer serves where tokenizer.weights is null.")
    parts: Literal["encoder", "all"] = Field(
        "encoder", description="encoder, with the embedding; or all that is in both models, decoder and heads too."
    )
    freeze: bool = Field(True, description="Train decoder and head alone; the encoder then has no dropout either.")


class Generation(Strict):
    """How the model makes images by default."""

    schedule: Annotated[ComponentConfig, SCHEDULES.slot()]
    selection: Annotated[ComponentConfig, SELECTIONS.slot()]
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = Field(20, description="Decoding steps, T.")
    token_temperature: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (1.0, 1.0), description="Of drawing tokens, at the first and the last step, linear between; 0: the likeliest."
    )
    top_k: Positive | None = Field(None, description="Likeliest codes that a token may take; null: all.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Probability that the likeliest codes a token may take add up to, at least; null: all codes."
    )
    guidance: Guidance | None = Field(None, description="Of class-conditional decoders; null: none.")


TargetName = Annotated[str, Field(pattern=r"^[a-z]\w*$")]


class MageSection(ComponentConfig):
    """A masked image model: its parts, how they are masked, what it learns by, how it generates."""

    kind: Literal["mage"] = Field(description="Selects Mage.")
    mask_ratio: Annotated[ComponentConfig, MASK_RATIOS.slot()]
    ratio_group: NonNegative = Field(
        64,
        description="Consecutive images that share a drawn ratio: 1 one each, 64 the published script, 0 the batch.",
    )
    drop: Drop = Field(0.5, description="Share of tokens the encoder never sees; 'lowest': the ratio's lower bound.")
    embedding: EmbeddingConfig = Field(EmbeddingConfig(), description="How tokens enter the encoder.")
    encoder: Annotated[ComponentConfig, ENCODERS.slot()]
    padding: Annotated[ComponentConfig, PADDINGS.slot()] | None = Field(
        None, description="What fills the grid before the decoder; null without one, or for the class token."
    )
    decoder: Annotated[ComponentConfig, DECODERS.slot()] | None = Field(
        description="Padded grid to features; null where no loss reads predictions."
    )
    input: str = Field("tokens", description="Stream that the encoder sees; 'tokens' are the tokenizer's.")
    targets: dict[TargetName, Annotated[ComponentConfig, TOKENIZERS.slot()]] = Field(
        {}, description="Other trained tokenizers by name, whose streams losses may predict."
    )
    heads: dict[str, Annotated[ComponentConfig, HEADS.slot()]] = Field(
        {}, description="Heads by the stream that they predict; those not named follow from the stream."
    )
    losses: list[Annotated[ComponentConfig, LOSSES.slot()]] = Field(
        description="What is learned by: one or more; none of an encoder alone, which is not trained (decoder null)."
    )
    generation: Generation | None = Field(
        None,
        description="null: the model's own default; a model that is not to generate needs no other.",
    )


class ClassifierSection(ComponentConfig):
    """A classifier on a MAGE encoder. Paper: supplement, Tables 11 to 13."""

    kind: Literal["classifier"] = Field(description="Selects MageClassifier.")
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
    input: str = Field("tokens", description="Stream of the tokenizer that the encoder sees.")


class ModelKinds:
    """What may stand under `model`: one section a kind, closed, unlike a family of components."""

    family = "models"
    sections: ClassVar[dict[str, type[ComponentConfig]]] = {"classifier": ClassifierSection, "mage": MageSection}

    def kinds(self) -> list[str]:
        """Return the kinds, sorted."""
        return sorted(self.sections)

    def config_of(self, kind: str) -> type[ComponentConfig]:
        """Return the schema of a kind."""
        return self.sections[kind]

    def parse(self, value: Mapping[str, Any]) -> ComponentConfig:
        """Validate a mapping with a known `kind`."""
        return self.sections[value["kind"]].model_validate_json(json.dumps(value))


MODELS = ModelKinds()


class Evaluation(Strict):
    """How a run is measured."""

    folds: Annotated[int, Field(ge=2)] = Field(5, description="Stratified folds of the linear probe.")
    strengths: tuple[PositiveFloat, ...] = Field(
        (0.01, 0.1, 1.0),
        min_length=1,
        description="Inverse regularisation strengths tried; the best is reported.",
    )
    samples: Positive = Field(1000, description="Generated images for the Fréchet distance.")


class Kernels(Strict):
    """Which implementations run; `mage-kit doctor` says what that means on a machine."""

    backend: Backend = Field(
        "auto", description="auto: what runs here, found by running it; triton, torch, reference: that or an error."
    )
    attention: AttentionForm = Field(
        "auto", description="auto: the form that trains faster at each part's shape; a form by name: that or an error."
    )
    compile: Compiled = Field(
        "auto", description="Have torch compile the transformer blocks for training; auto: on CUDA, if that is faster."
    )
    residual: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Sums along the blocks in training; bfloat16 is faster on a GPU and keeps 8 bits of each sum.",
    )
    recompute: bool = Field(
        False, description="Gradient checkpointing: blocks keep their inputs alone; less memory, a third more time."
    )
