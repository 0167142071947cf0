"""Sections of a recipe: what stands under model, training, generation and the rest, with bounds and prose."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from mage_kernels import Backend
from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from mage_kit.decoders import DECODERS
from mage_kit.decoding import MAX_STEPS
from mage_kit.embedding import EmbeddingConfig
from mage_kit.encoders import ENCODERS
from mage_kit.fields import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.guidance import Guidance
from mage_kit.mask_ratios import MASK_RATIOS
from mage_kit.paddings import PADDINGS
from mage_kit.registry import ComponentConfig, Strict
from mage_kit.schedules import SCHEDULES
from mage_kit.selections import SELECTIONS


def _drop(value: Any) -> Any:
    if value == "lowest" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        return value
    raise PydanticCustomError("drop", "{value}, must lie in [0, 1] or be 'lowest'", {"value": json.dumps(value)})


Drop = Annotated[
    float | str,
    PlainValidator(_drop),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "lowest"}]}),
]


AttentionForm = Literal["auto", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "xformers", "matmul", "reference"]
"""`mage_kernels.attention.Implementation`, or auto: one list, so that a wrong name is one problem."""


class ModelConfig(Strict):
    """The parts of the model and how they are masked."""

    mask_ratio: Annotated[ComponentConfig, MASK_RATIOS.slot()]
    ratio_group: NonNegative = Field(
        64,
        description="Consecutive images that share a drawn ratio: 1 one each, 64 the published script, 0 the batch.",
    )
    drop: Drop = Field(0.5, description="Share of tokens the encoder never sees; 'lowest': the ratio's lower bound.")
    embedding: EmbeddingConfig = Field(EmbeddingConfig(), description="How tokens enter the encoder.")
    encoder: Annotated[ComponentConfig, ENCODERS.slot()]
    padding: Annotated[ComponentConfig, PADDINGS.slot()]
    decoder: Annotated[ComponentConfig, DECODERS.slot()]


class Pretrained(Strict):
    """Where encoder and embedding come from, instead of random initialisation; the tokenizer must be theirs."""

    weights: str = Field(description="Run or model folder; its tokenizer serves where tokenizer.weights is null.")
    freeze: bool = Field(True, description="Train decoder and head alone; the encoder then has no dropout either.")


class TokenizerTraining(Strict):
    """First stage: training the tokenizer on the same images. AdamW, warm-up, cosine to 0."""

    steps: Positive = Field(description="Optimiser steps.")
    batch: Positive = Field(64, description="Images a step.")
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate.")
    warmup_steps: NonNegative = Field(50, description="Steps of linear warm-up.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.95), description="AdamW's betas.")
    clip: PositiveFloat = Field(1.0, description="Largest global gradient norm.")


class Steps(Strict):
    """What all training on a model shares: lr = base_lr x batch / 256, warm-up and cosine per step."""

    batch: Positive = Field(description="Images a step over all processes; decides the learning rate.")
    micro_batch: Positive | None = Field(None, description="Images at once in a process; null: the whole share.")
    epochs: PositiveFloat = Field(description="Passes over the data.")
    warmup_epochs: NonNegativeFloat = Field(description="Epochs of linear warm-up.")
    base_lr: PositiveFloat = Field(1.5e-4, description="Learning rate at a batch of 256.")
    weight_decay: NonNegativeFloat = Field(0.05, description="None on 1-D tensors and biases.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.95), description="AdamW's betas.")
    clip: PositiveFloat | None = Field(3.0, description="Largest global gradient norm; null: no clipping.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster.")
    workers: NonNegative = Field(0, description="Processes that load images; 0: the training process itself.")
    log_every: Positive = Field(50, description="Steps between two lines of metrics.")
    checkpoint_every: Positive = Field(500, description="Steps between two checkpoints; both stages.")
    keep: Positive = Field(2, description="Checkpoints kept.")
    ema: Probability | None = Field(
        None, description="Decay of a running mean of the model's weights, warmed up; null: no such mean."
    )
    skip_limit: Positive = Field(
        5, description="Steps in a row with a non-finite loss or gradient before the last checkpoint is taken up again."
    )
    rollbacks: NonNegative = Field(2, description="How often that is done before training stops with an error.")

    @property
    def peak_lr(self) -> float:
        """base_lr x batch / 256."""
        return self.base_lr * self.batch / 256


class Training(Steps):
    """Second stage: training the model with AdamW, cosine to 0."""

    samples_every: PositiveFloat | None = Field(
        None, description="Epochs between two pictures of generated samples, in samples/; null: none."
    )
    shard: bool = Field(
        False, description="Over several processes, shard weights, gradients and optimiser state (FSDP2)."
    )


class ClassifierTraining(Steps):
    """Training a classifier on labelled images. Paper: Tables 11 to 13 of the supplement."""

    base_lr: PositiveFloat = Field(2.5e-4, description="Learning rate at a batch of 256.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="AdamW's betas.")
    clip: PositiveFloat | None = Field(None, description="Largest global gradient norm; null: no clipping.")
    optimizer: Literal["adamw", "lars"] = Field(
        "adamw", description="adamw, or lars (momentum 0.9, trust 0.001): what linear probes are trained by."
    )
    min_lr: NonNegativeFloat = Field(0.0, description="Learning rate at the end of the cosine.")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Factor of the learning rate from one layer to the one before; 1: the same everywhere."
    )
    label_smoothing: Probability = Field(0.0, description="Share of each label that is spread over all classes.")
    mixup: NonNegativeFloat = Field(0.0, description="Mixup's alpha, on pixels before the tokenizer; 0: none.")
    cutmix: NonNegativeFloat = Field(0.0, description="CutMix's alpha, on pixels before the tokenizer; 0: none.")
    switch: Fraction = Field(0.5, description="Share of the steps with CutMix where there are both.")
    images_per_class: Positive | None = Field(
        None, description="Labelled images of each class that are trained on, drawn from the seed; null: all."
    )
    validate_every: PositiveFloat | None = Field(
        None, description="Epochs between two validations; null: at the end alone."
    )


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
    compile: bool = Field(False, description="Have torch compile the transformer blocks for training.")
    recompute: bool = Field(
        False, description="Gradient checkpointing: blocks keep their inputs alone; less memory, a third more time."
    )
