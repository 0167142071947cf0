"""Recipe: the JSON form of a run. One file, one run; every problem at once, with its path."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from pydantic import Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.decoders import DECODERS, DecoderWires
from mage_kit.draws import derive
from mage_kit.embedding import EmbeddingConfig
from mage_kit.encoders import ENCODERS
from mage_kit.errors import MageKitError, PartsError, RecipeError
from mage_kit.fields import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.losses import LOSSES, Loss, LossWires
from mage_kit.mask_ratios import MASK_RATIOS
from mage_kit.model import Decoding, Mage, Weighted
from mage_kit.paddings import PADDINGS, PaddingWires
from mage_kit.plugins import load_entry_points, load_plugins, stored_folders
from mage_kit.problems import problems
from mage_kit.registry import ComponentConfig, NoWires, Registry, Strict
from mage_kit.schedules import SCHEDULES
from mage_kit.selections import SELECTIONS
from mage_kit.tokenizers import TOKENIZERS, Tokenizer

T = TypeVar("T")
W = TypeVar("W")


def _drop(value: Any) -> Any:
    if value == "lowest" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        return value
    raise PydanticCustomError("drop", "{value}, must lie in [0, 1] or be 'lowest'", {"value": json.dumps(value)})


Drop = Annotated[
    float | str,
    PlainValidator(_drop),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "lowest"}]}),
]


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


class TokenizerTraining(Strict):
    """First stage: training the tokenizer on the same images. AdamW, warm-up, cosine to 0."""

    steps: Positive = Field(description="Optimiser steps.")
    batch: Positive = Field(64, description="Images a step.")
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate.")
    warmup_steps: NonNegative = Field(50, description="Steps of linear warm-up.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay.")
    betas: tuple[Probability, Probability] = Field((0.9, 0.95), description="AdamW's betas.")
    clip: PositiveFloat = Field(1.0, description="Largest global gradient norm.")


class Training(Strict):
    """Second stage: training the model. AdamW, lr = base_lr x batch / 256, warm-up and cosine to 0 per step."""

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


class Generation(Strict):
    """How the model makes images by default."""

    schedule: Annotated[ComponentConfig, SCHEDULES.slot()]
    selection: Annotated[ComponentConfig, SELECTIONS.slot()]
    steps: Positive = Field(20, description="Decoding steps, T.")


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
    """Which implementations run."""

    backend: Literal["auto", "torch"] = Field("auto", description="auto: measured once at the start of a run.")


class Recipe(Strict):
    """A run, or, without data and training, a model.

    Load one with `Recipe.load`; compose parts in Python with `Mage` instead where JSON is in the way.
    """

    schema_: str | None = Field(None, alias="$schema", description="Where editors find the schema.")
    name: str = Field(min_length=1, description="Name of the run.")
    plugins: tuple[str, ...] = Field((), description="Modules to import first; they may register components.")
    seed: NonNegative = Field(0, description="Every random draw of the run follows from it.")
    data: Annotated[ComponentConfig, DATASETS.slot()] | None = Field(None, description="Images; null for a bare model.")
    tokenizer: Annotated[ComponentConfig, TOKENIZERS.slot()]
    model: ModelConfig
    losses: Annotated[list[Annotated[ComponentConfig, LOSSES.slot()]], Field(min_length=1)]
    tokenizer_training: TokenizerTraining | None = Field(None, description="First stage; null if nothing is to train.")
    training: Training | None = Field(None, description="Second stage; null for a bare model.")
    generation: Generation
    evaluation: Evaluation = Field(Evaluation(), description="How a run is measured.")
    kernels: Kernels = Field(Kernels(), description="Which implementations run.")

    # -- reading and writing -----------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file, change what `overrides` name, validate.

        Args:
            path: JSON file.
            overrides: `a.b=VALUE` each; VALUE is JSON, else a string; a component's kind alone names it with defaults.

        Raises:
            RecipeError: With every problem of the recipe.
        """
        file = Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecipeError(["no such file"], str(file)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError([f"cannot be read ({error})"], str(file)) from None
        except json.JSONDecodeError as error:
            raise RecipeError(
                [f"line {error.lineno}, column {error.colno}: not JSON ({error.msg})"], str(file)
            ) from None
        return cls.parse(data, overrides, source=str(file), folder=file.resolve().parent)

    @classmethod
    def parse(
        cls, data: Any, overrides: Sequence[str] = (), source: str = "recipe", folder: Path | None = None
    ) -> Recipe:
        """Validate JSON data as a recipe; see `load`."""
        if not isinstance(data, dict):
            raise RecipeError(["$: must be an object"], source)
        data = json.loads(json.dumps(data))
        for override in overrides:
            apply_override(data, override)
        broken, found = load_entry_points(), []
        names = data.get("plugins", [])
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found = load_plugins(names, *([] if folder is None else [folder, *stored_folders(folder)]))
        try:
            recipe = cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            # A broken package that is installed matters only where something is missing.
            raise RecipeError(found + problems(error, cls, data) + broken, source) from None
        if found:
            raise RecipeError(found, source)
        return recipe

    def to_json(self) -> str:
        """Return the recipe as JSON text, every number stated."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude={"schema_"}), indent=2) + "\n"

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
        generation = {
            "schedule": SCHEDULES.describe(model.decoding.schedule),
            "selection": SELECTIONS.describe(model.decoding.selection),
            "steps": model.decoding.steps,
        }
        tokenizer = TOKENIZERS.describe(model.tokenizer, weights=None)
        return cls.parse(
            {
                "name": name,
                "plugins": _plugins_of(model),
                "tokenizer": tokenizer,
                "model": parts,
                "losses": losses,
                "generation": generation,
            }
        )

    def extended(self, **sections: Any) -> Recipe:
        """Return this recipe with whole sections replaced, as `data={"kind": "image_folder", "path": "photos"}`.

        Raises:
            RecipeError: With every problem of the result.
        """
        return self.parse({**self.model_dump(mode="json", by_alias=True), **sections}, source=self.name)

    # -- building ----------------------------------------------------------------------------------------------

    def build_tokenizer(self) -> Tokenizer:
        """Return the tokenizer with weights initialised from the seed."""
        with _at("$.tokenizer", self.tokenizer), _seeded(self.seed, "tokenizer"):
            return TOKENIZERS.build(self.tokenizer, NoWires())

    def build_dataset(self) -> Dataset:
        """Return the data set; opens its files.

        Raises:
            RecipeError: If the recipe has no data, or it cannot be opened.
        """
        if self.data is None:
            raise RecipeError(["$.data: missing, this needs images"], self.name)
        with torch.device("meta"):
            tokenizer = self.build_tokenizer()
        with _at("$.data", self.data):
            return DATASETS.build(self.data, DatasetWires(tokenizer.image_size, tokenizer.channels))

    def build_model(self, tokenizer: Tokenizer | None = None) -> Mage:
        """Return the model with weights initialised from the seed.

        Args:
            tokenizer: A trained one; None builds the recipe's.

        Raises:
            RecipeError: If parts do not fit; names the paths of both.
        """
        collected = _Collected()
        tokenizer = tokenizer or collected.attempt("$.tokenizer", None, self.build_tokenizer)
        parts = self.model
        with _seeded(self.seed, "model"):
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
            with _at("$.model"):
                return Mage(
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

    def decoding(self) -> Decoding:
        """Return the default way to generate."""
        with _at("$.generation.schedule", self.generation.schedule):
            schedule = SCHEDULES.build(self.generation.schedule, NoWires())
        with _at("$.generation.selection", self.generation.selection):
            selection = SELECTIONS.build(self.generation.selection, NoWires())
        return Decoding(schedule, selection, self.generation.steps)

    def check(self) -> Mage:
        """Build everything without memory and without reading data; return the model on the meta device.

        Raises:
            RecipeError: With every problem found.
        """
        with torch.device("meta"):
            model = self.build_model()
        found = []
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
        if untrained and self.training is not None and self.tokenizer_training is None:
            found.append("$.tokenizer.weights and $.tokenizer_training: both null, the tokenizer would stay untrained")
        if self.training is not None:
            found += _check_batches(self.training)
        if found:
            raise RecipeError(found, self.name)
        return model

    def fingerprint(self, *sections: str) -> str:
        """Return a SHA-256 over some sections, to tell whether a stored result still belongs to this recipe."""
        whole = self.model_dump(mode="json", by_alias=True)
        text = json.dumps({name: whole[name] for name in sections}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _check_batches(training: Training) -> list[str]:
    micro = training.micro_batch
    if micro is not None and training.batch % micro:
        return [f"$.training.micro_batch: {micro}, must divide $.training.batch ({training.batch})"]
    return []


def _plugins_of(model: Mage) -> list[str]:
    """Modules outside this package that define parts of the model, so that loading can import them again."""
    parts = [model.tokenizer, model.mask_ratio, model.encoder, model.padding, model.decoder, *model.losses]
    parts += [model.decoding.schedule, model.decoding.selection]
    names = {type(part).__module__ for part in parts}
    if "__main__" in names:
        mine = sorted(type(part).__name__ for part in parts if type(part).__module__ == "__main__")
        raise MageKitError(f"{', '.join(mine)}: defined in the running script, loading could not find it; use a module")
    return sorted(name for name in names if name.split(".")[0] != "mage_kit")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Change JSON data in place by `a.b=VALUE` or `losses[0].weight=VALUE`.

    Raises:
        MageKitError: If the text has no '=', or a place on the way does not exist.
    """
    path, sign, text = override.partition("=")
    if not sign or not path:
        raise MageKitError(f"--set {override}: must have the form path=value, as in training.epochs=10")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    words = path.removeprefix("$.").replace("[", ".").replace("]", "").split(".")
    parts: list[str | int] = [int(word) if word.isdigit() else word for word in words]
    place: Any = data
    for part in parts[:-1]:
        if isinstance(place, dict) and place.get(str(part)) is None:
            place[str(part)] = {}
        place = _step(place, part, override)
    last = parts[-1]
    if isinstance(place, dict):
        old = place.get(str(last))
        named = isinstance(value, str) and isinstance(old, dict) and "kind" in old
        place[str(last)] = {"kind": value} if named else value
    else:
        _step(place, last, override)
        place[last] = value


def _step(place: Any, part: str | int, override: str) -> Any:
    try:
        return place[str(part)] if isinstance(place, dict) else place[part]
    except (KeyError, IndexError, TypeError):
        raise MageKitError(f"--set {override}: no place '{part}' in the recipe") from None


@contextlib.contextmanager
def _at(path: str, config: ComponentConfig | None = None) -> Iterator[None]:
    """Say where in the recipe a value that does not hold stands; `config` tells which names are keywords there."""
    try:
        yield
    except PartsError as error:
        raise RecipeError([f"{' and '.join(_place(part) for part in error.parts)}: {error.message}"]) from None
    except RecipeError:
        raise
    except ValueError as error:
        keyword = str(error).partition(":")[0]
        inside = config is not None and keyword in type(config).model_fields
        raise RecipeError([f"{path}.{error}" if inside else f"{path}: {error}"]) from None


def _place(part: str) -> str:
    """JSON path of a part that the model names."""
    return f"$.{part}" if part in ("tokenizer", "losses") or part.startswith("losses[") else f"$.model.{part}"


class _Collected:
    """Gathers the problems of several parts, so that one message holds them all."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def attempt(self, path: str, config: ComponentConfig | None, make: Callable[[], T]) -> T | None:
        """Return what `make` makes, or None and keep the problem."""
        try:
            with _at(path, config):
                return make()
        except RecipeError as error:
            self.problems += error.problems
            return None

    def build(self, path: str, registry: Registry[T, W], config: ComponentConfig, wires: W) -> T | None:
        """Build one part; see `attempt`."""
        return self.attempt(path, config, lambda: registry.build(config, wires))

    def raise_if_any(self, source: str) -> None:
        """Raise RecipeError with all problems kept."""
        if self.problems:
            raise RecipeError(self.problems, source)


@contextlib.contextmanager
def _seeded(seed: int, purpose: str) -> Iterator[None]:
    """Initialise weights from (seed, purpose), leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init-" + purpose))
        yield


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, with every component registered now."""
    load_entry_points()
    schema = Recipe.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mage_kit recipe"
    return schema
