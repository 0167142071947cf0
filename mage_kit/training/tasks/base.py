"""What a task is: what one training does, from a batch of images to a scalar for each player.

A task is a component: its keywords are its own part of the recipe's section; what all tasks share (batch, workers,
checkpoints) belongs to the slot and to the loop. It meets its images in `accept`, the run in `enter`, and then gives
objectives; it knows no optimizer step, no checkpoint, no process but the numbers it is told.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError, RecipeError, RegistrationError
from mage_kit.base.fields import BatchSize, NonNegative, Positive, Workers
from mage_kit.base.processes import add_up
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import Dataset
from mage_kit.optimizers import OPTIMIZERS, has_blocks
from mage_kit.training.batches import Batch
from mage_kit.training.players import Player
from mage_kit.training.tasks.context import Choose, Context, Facts, TaskWires, TrainingStep


class Task(ABC):
    """One training.

    Attributes:
        stage: Its name in logs and checkpoints.
        makes: What is written at its end: "tokenizer" a tokenizer's folder, "model" the recipe's model.
        model_kind: Kind of the recipe's model that it trains; None for one that trains without.
        free: Keywords that a resumed run may change: how it is carried out, not what.
        extends: Keywords that a run which goes on beyond its end may change: how long, and at which rate.
        looks_at: What `look` does, in a word.
        shard: Over several processes, shard weights, gradients and optimizer state.
        sums: Named running sums of metrics and of shares (2,), in checkpoints; see `tally`.
        share: Of a step's objective that the pass at hand is: 1 over passes and processes; set by the loop.
    """

    stage: ClassVar[str] = "model"
    makes: ClassVar[Literal["tokenizer", "model"]] = "model"
    model_kind: ClassVar[str | None] = "mage"
    free: frozenset[str] = frozenset()
    extends: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "warmup_epochs", "base_lr", "min_lr", "steps", "warmup_steps", "lr"}
    )
    looks_at: ClassVar[str] = "samples"
    shard: bool = False
    context: Context
    share: float = 1.0

    def __init_subclass__(cls, **words: Any) -> None:
        """Refuse what would only fail in a run.

        Raises:
            RegistrationError: If `stage` is no word (it names a folder) or "validation", `makes` is neither of its two
                values, or a task that makes a model names no kind of model.
        """
        super().__init_subclass__(**words)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.stage):
            rule = "must be a word of small letters, digits and underscores: it names a folder"
            raise RegistrationError(f"{cls.__qualname__}.stage: {cls.stage!r}, {rule}")
        if cls.stage == "validation":
            rule = "must be another word: lines of accuracies have it in the log"
            raise RegistrationError(f"{cls.__qualname__}.stage: 'validation', {rule}")
        if cls.makes not in ("tokenizer", "model"):
            raise RegistrationError(f"{cls.__qualname__}.makes: {cls.makes!r}, must be 'tokenizer' or 'model'")
        if cls.makes == "model" and cls.model_kind is None:
            raise RegistrationError(f"{cls.__qualname__}.model_kind: None, must name a kind: the task makes a model")

    # -- before the run ----------------------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """Return a line, with its JSON path, for each setting that does not fit; parts may be on the meta device."""
        return []

    def accept(self, images: Dataset, validation: Dataset | None, seed: int, path: str) -> Dataset:
        """Take the images of the recipe; return those that are trained on.

        Args:
            images: Opened.
            validation: What to measure on, instead of what the section names.
            seed: The recipe's.
            path: Of the section, for errors.

        Raises:
            MageKitError: If they do not fit the task.
        """
        if images.gives_tokens:
            rule = "this task trains on images; name them"
            raise RecipeError([f"$.data and {path}.kind: a token cache, which holds no images; {rule}"])
        return images

    def materials(self) -> tuple[str, ...]:
        """Return digests of what else the training depends on: weights of files that the recipe names by their path."""
        return ()

    @abstractmethod
    def length(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps."""

    # -- at its start ------------------------------------------------------------------------------------------

    def decide(self, choose: Choose, device: torch.device, precision: str, images: int) -> None:  # noqa: B027
        """Choose what else is left to the machine, at a precision and so many images at once."""

    def enter(self, context: Context) -> None:
        """Meet the run; called once, before `players`."""
        self.context = context
        self.sums: dict[str, Tensor] = {}

    @abstractmethod
    def players(self) -> Sequence[Player]:
        """Return who trains; called once."""

    # -- steps -------------------------------------------------------------------------------------------------

    def cut(self, batch: Batch, step: TrainingStep) -> Sequence[Any]:
        """Cut this process's part of a batch into what is computed at once: here the first views, uint8."""
        first_views: Tensor = batch.images_TCHW[: len(batch.index_B)]
        return list(first_views.split(self.context.layout.micro))

    def prepare(self, micro: Any, step: TrainingStep) -> Any:
        """Bring a piece of a batch to the device, outside of the engine: here float images in [0, 1]."""
        return to_float(micro, self.context.device)

    @abstractmethod
    def objective(self, player: str, work: Any, step: TrainingStep) -> Tensor:
        """Return what a player minimises: a scalar whose mean over passes and processes is the step's objective.

        Called inside the engine, for each player in turn; the parameters of the others get no gradient meanwhile.

        Args:
            player: Its name.
            work: What `prepare` returned.
            step: The step.
        """

    def tally(self, name: str, value: Tensor | float) -> None:
        """Add a number of the pass at hand to what `read` averages: over processes, and passes and steps that gave one.

        Args:
            name: Of the metric, the same names in all processes; "loss" is what the progress shows. Without it, that is
                the first player's objective.
            value: A number, or a tensor of one.

        Raises:
            MageKitError: If the name is one of the loop's own, or the value is more than one number.
        """
        if not isinstance(name, str) or not isinstance(value, Tensor | int | float):
            rule = "must be a name and a number, or a tensor of one"
            raise MageKitError(f"tally: {name!r}, {type(value).__name__}, {rule}")
        if name in RESERVED:
            raise MageKitError(f"tally: '{name}', is a name of the log's own ({', '.join(sorted(RESERVED))})")
        value = torch.as_tensor(value, device=self.context.device)
        if value.numel() != 1:
            raise MageKitError(f"tally: '{name}' of shape {tuple(value.shape)}, must be one number")
        value = value.reshape(())
        total = self.sums.setdefault(name, torch.zeros(2, dtype=torch.float64, device=value.device))
        total[0].add_(value.detach().double() * self.share)
        total[1].add_(self.share)

    def read(self) -> dict[str, Any]:
        """Return the metrics of all processes gathered since the last call, with "loss", and start again.

        Returns:
            The means of what was tallied; nothing where no step was computed.
        """
        for _, value in sorted(self.sums.items()):
            add_up(value)
        sums = {name: value.tolist() for name, value in self.sums.items()}
        for value in self.sums.values():
            value.zero_()
        return {name: total / share for name, (total, share) in sums.items() if share}

    def note(self, record: Mapping[str, Any]) -> str:
        """Return a few words for the progress line."""
        return f"loss {record['loss']:.4f}" if "loss" in record else ""

    # -- between steps -----------------------------------------------------------------------------------------

    def look_every(self) -> int:
        """Return the steps between two looks; 0 for none."""
        return 0

    def look(self, step: int, path: Path) -> None:  # noqa: B027  # a task with nothing to show has nothing to write
        """Show or measure what there is after a step, pictures to the path; an error is every process's."""

    def has_looked(self, step: int, path: Path) -> bool:
        """Return whether that was done after this step, by a process that went away since."""
        return path.is_file()

    def finish(self, players: Sequence[Player]) -> None:  # noqa: B027  # as `look`
        """Measure what was made, before it is written."""


RESERVED = frozenset(
    {
        "stage",
        "step",
        "epoch",
        "lr",
        "grad_norm",
        "skipped",
        "broken_images",
        "peak_memory_gib",
        "images_per_s",
        "step_shares",
    }
)  # what the loop writes into each line of the log

CARRIED_OUT = frozenset(
    {"workers", "keep", "keep_every", "log_every", "checkpoint_every", "skip_limit", "rollbacks"}
)  # of any task: how it is carried out, not what; a resumed run may change them

TASKS: Registry[Task, TaskWires] = Registry(
    "tasks",
    Task,
    TaskWires,
    slot_fields={
        "batch": (BatchSize, Field(description="Images a step over all processes.")),
        "micro_batch": (
            BatchSize | None,
            Field(
                None,
                description="Images at once in a process; null: the whole share, or as much of it as memory holds by "
                "the plan where images do not contrast one another; of a tokenizer the whole share.",
            ),
        ),
        "precision": (
            Literal["auto", "float32", "bfloat16"],
            Field("auto", description="auto: bfloat16 by rule, where it is faster."),
        ),
        "workers": (
            Workers | None,
            Field(0, description="Processes that load images; 0: this one itself; null: as many as it takes."),
        ),
        "log_every": (Positive, Field(50, description="Steps between two lines of metrics.")),
        "checkpoint_every": (Positive, Field(500, description="Steps between two checkpoints.")),
        "keep": (Positive, Field(2, description="Newest checkpoints that stay.")),
        "keep_every": (
            Positive | None,
            Field(None, description="Checkpoints of every so many steps stay too; null: the newest alone."),
        ),
        "skip_limit": (
            Positive,
            Field(
                5,
                description="Steps in a row with a non-finite loss or gradient before the last checkpoint is taken up "
                "again.",
            ),
        ),
        "rollbacks": (
            NonNegative,
            Field(2, description="How often that is done before training stops with an error."),
        ),
    },
)

PUBLISHED_ADAMW = OPTIMIZERS.parse({"kind": "adamw"})


def layer_problems(path: str, optimizer: ComponentConfig, module: nn.Module) -> list[str]:
    """Return a line if layer-wise rates are asked for, and a module trains no blocks of an encoder."""
    decay = optimizer.get("layer_decay")
    if decay == 1 or has_blocks(name for name, value in module.named_parameters() if value.requires_grad):
        return []
    return [f"{path}.layer_decay: {decay:g}, must be 1: {type(module).__name__} trains no blocks of an encoder"]


def to_float(images_TCHW: Tensor, device: torch.device) -> Tensor:
    """uint8 images to float32 in [0, 1] on the device."""
    return images_TCHW.to(device, non_blocking=True).float().div_(255)


def dropout_seed(seed: int, stage: str, step: int, rank: int, rollbacks: int) -> int:
    """Return what dropout follows: (seed, step, process), so that resuming is exact without storing a generator; after
    a roll-back another one, which would otherwise walk the same way again."""
    return derive(seed, f"dropout-{stage}", step, rank, rollbacks)
