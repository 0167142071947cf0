"""The one training loop: both stages run through it, with checkpoints, log, progress, and recovery.

A step is drawn from (seed, step) alone, so a run can be left and taken up at any of them, by any number of processes.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit import processes
from mage_kit.draws import derive
from mage_kit.errors import MageKitError, TrainingStopped
from mage_kit.files import read_json, write_json
from mage_kit.progress import Reporter, Task
from mage_kit.training.broken import BrokenImages
from mage_kit.training.checkpoints import Checkpointed, list_checkpoints, resume, save_checkpoint
from mage_kit.training.loader import Batch
from mage_kit.training.metrics import MetricsLog, peak_memory_gib
from mage_kit.training.non_finite import all_finite, name_the_module
from mage_kit.training.optim import clip_gradients, lr_at, set_lr
from mage_kit.training.signals import StopSignals

_ROLLBACKS = "rollbacks.json"  # beside the checkpoints: how often one was taken up again


@dataclass(frozen=True)
class LoopPlan:
    """Numbers of a stage's loop.

    Args:
        name: "tokenizer", "model" or "classifier".
        steps: Optimiser steps in all.
        batch: Images a step, over all processes.
        steps_per_epoch: For the epoch in the log.
        warmup: Steps of linear warm-up.
        lr: Peak learning rate.
        clip: Largest gradient norm; None for no clipping.
        log_every: Steps between two lines of metrics.
        checkpoint_every: Steps between two checkpoints.
        look_every: Steps between two pictures of samples; 0 for none.
        keep: Checkpoints kept.
        skip_limit: Non-finite steps in a row before the last checkpoint is taken up again.
        rollbacks: How often that is done.
        seed: The recipe's.
        least_lr: Learning rate at the end of the cosine.
    """

    name: str
    steps: int
    batch: int
    steps_per_epoch: int
    warmup: int
    lr: float
    clip: float | None
    log_every: int
    checkpoint_every: int
    look_every: int
    keep: int
    skip_limit: int
    rollbacks: int
    seed: int
    least_lr: float = 0.0


class Stage(ABC):
    """What differs between the stages: one step, and what is said about it."""

    device: torch.device
    looks_at = "samples"

    @abstractmethod
    def gradients(self, batch: Batch, step: int, progress: float) -> Tensor:
        """Run forward and backward of a whole batch; return this process's part of the loss, detached."""

    @abstractmethod
    def read(self) -> dict[str, Any]:
        """Return the metrics of all processes gathered since the last call, with "loss", and start again."""

    @abstractmethod
    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield this process's part of the batches of steps `first` to `last` - 1."""

    @property
    @abstractmethod
    def kept(self) -> Checkpointed:
        """What a checkpoint holds."""

    def moving(self) -> dict[str, Tensor]:
        """Return tensors that a forward pass changes by itself, besides the metrics' sums."""
        return {}

    def note(self, record: dict[str, Any]) -> str:
        """Return a few words for the progress line."""
        return f"loss {record['loss']:.4f}"

    def look(self, step: int, path: Path) -> None:  # noqa: B027  # a stage with nothing to show has nothing to write
        """Show or measure what the stage makes after a step, pictures to the path; an error is every process's."""

    def looked(self, step: int, path: Path) -> bool:
        """Return whether that was done after this step, by a process that went away since."""
        return path.is_file()


class Loop:
    """A stage on its way to its last step.

    Args:
        stage: What a step does.
        plan: How many, how often.
        folder: The run folder.
        recipe_json: Written into each checkpoint.
        log: Where metrics go.
        broken: Where images that could not be used are listed.
        signals: Whether the run was told to stop.
        reporter: Where progress goes.
    """

    def __init__(
        self,
        stage: Stage,
        plan: LoopPlan,
        folder: Path,
        recipe_json: str,
        log: MetricsLog,
        broken: BrokenImages,
        signals: StopSignals,
        reporter: Reporter,
    ) -> None:
        self.signals, self.told, self.saved = signals, False, 0
        self.stage, self.plan, self.folder, self.recipe_json = stage, plan, folder, recipe_json
        self.log, self.broken, self.reporter = log, broken, reporter
        self.checkpoints = folder / "checkpoints" / plan.name
        self.kept = stage.kept
        self.counters = self.kept.counters
        self.counters.update({"skipped": 0, "rollbacks": 0})
        self.done, self.bad, self.last_norm = 0, 0, 0.0
        self.clock, self.since = time.monotonic(), 0

    def run(self, until: int | None = None) -> None:
        """Train from the newest checkpoint, or from the start, to the last step.

        Args:
            until: Stop after this step, as if it were the last; None for the plan's.

        Raises:
            MageKitError: If the numbers stay non-finite, too many images are broken, or the disk is full.
            TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
        """
        self.done = self.saved = resume(self.kept, self.checkpoints, self.reporter)
        self._recall_rollbacks()
        processes.on_first(lambda: self.log.rewind(self.plan.name, self.done))
        self.clock, self.since = time.monotonic(), self.done
        last = min(self.plan.steps, until or self.plan.steps)
        if self.done and self._look_due(last) and not processes.on_first(lambda: self._looked(self.done)):
            self._look(self.done)  # the process before was killed between the checkpoint and this
        with self.reporter.task(f"training the {self.plan.name}", last, self.done) as task:
            while self.done < last:
                self._pass(last, task)

    def _recall_rollbacks(self) -> None:
        """Count those made after the last checkpoint by a process that was killed: what failed is not tried alike."""
        file = self.checkpoints / _ROLLBACKS
        made = processes.on_first(lambda: read_json(file) if file.is_file() else {})
        if made.get("rollbacks", 0) > self.counters["rollbacks"]:
            self.counters.update({name: int(made[name]) for name in ("rollbacks", "skipped")})

    # -- steps -------------------------------------------------------------------------------------------------

    def _pass(self, last: int, task: Task) -> None:
        """Go on until the last step, or until there is something to go back for."""
        for step, batch in enumerate(self.stage.batches(self.done, last), start=self.done):
            self.broken.note(batch.broken)
            if self._step(batch, step):
                self.bad = 0
            else:
                self._skip(batch, step)
                if self.bad >= self.plan.skip_limit:
                    self._roll_back(f"{self.bad} steps in a row were not finite")
                    return
            self.done = step + 1
            if not self._after(last, task):
                return
            if self.told and self.done < last:
                self._stop()

    def _seed(self, step: int) -> None:
        """Dropout follows (seed, step, process): exact on resume without storing a generator; another one after a
        roll-back, which would otherwise walk the same way again."""
        parts = (step, processes.rank(), self.counters["rollbacks"])
        torch.manual_seed(derive(self.plan.seed, f"dropout-{self.plan.name}", *parts))

    def _step(self, batch: Batch, step: int) -> bool:
        """Do one step; return False, with nothing changed, if loss or gradient is not finite."""
        plan, optimizer = self.plan, self.kept.optimizer
        before = self._copied()
        self._seed(step)
        set_lr(optimizer, lr_at(step, plan.steps, plan.warmup, plan.lr, plan.least_lr))
        loss = self.stage.gradients(batch, step, step / plan.steps)
        told = torch.full_like(loss, float(self.signals.received is not None))
        total, told_any = processes.add_up(torch.stack([loss, told])).tolist()
        self.told = told_any > 0
        norm = clip_gradients(self.kept.names.values(), plan.clip)
        if not (math.isfinite(norm) and math.isfinite(total)):
            self._restore(before)
            return False
        optimizer.step()
        optimizer.zero_grad()
        if self.kept.ema is not None:
            self.kept.ema.update(step + 1)
        self.last_norm = norm
        return True

    def _copied(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copy what a forward pass changes: sums of metrics, and what the stage says moves by itself."""
        sums, moving = self.kept.sums, self.stage.moving()
        return {name: value.clone() for name, value in sums.items()}, {k: v.clone() for k, v in moving.items()}

    def _restore(self, before: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        sums, moving = before
        for name, tensor in self.kept.sums.items():
            tensor.copy_(sums[name]) if name in sums else tensor.zero_()
        for name, tensor in self.stage.moving().items():
            tensor.copy_(moving[name])

    # -- when numbers go wrong ---------------------------------------------------------------------------------

    def _skip(self, batch: Batch, step: int) -> None:
        """Leave a step out; of several in a row, the first is looked into."""
        self.bad += 1
        self.counters["skipped"] += 1
        optimizer, before = self.kept.optimizer, self._copied()
        if self.bad == 1:
            optimizer.zero_grad()

            def again() -> None:
                self._seed(step)
                self.stage.gradients(batch, step, step / self.plan.steps)

            found = processes.collect(name_the_module(self.kept.module, self.kept.names, again))
            where = next(
                (words for words in found if "output" in words), found[0]
            )  # one process may see it, not others
            self._restore(before)
            self.reporter.say(f"step {step + 1}: loss or gradient not finite, {where}; the step is left out")
        optimizer.zero_grad()

    def _roll_back(self, why: str) -> None:
        """Take up the last good checkpoint again, with other dropout; or stop, when that was done often enough."""
        optimizer = self.kept.optimizer
        optimizer.zero_grad()
        tried = self.counters["rollbacks"]
        good = processes.on_first(lambda: list_checkpoints(self.checkpoints))
        text = f"training the {self.plan.name}: at step {self.done + 1} {why}"
        if tried >= self.plan.rollbacks or not good:
            back = f"after {tried} returns to the last good checkpoint" if good else "and there is no checkpoint yet"
            safe = f"; {good[-1]} is intact" if good else ""
            message = f"{text}, {back}: stopped{safe}; start a new run with a lower learning rate"
            raise processes.shared(MageKitError(f"{message}, or with training.precision float32"))
        skipped = self.counters["skipped"]
        self.done = self.saved = resume(self.kept, self.checkpoints, self.reporter)
        self.counters.update({"rollbacks": tried + 1, "skipped": skipped})
        processes.on_first(lambda: write_json(self.checkpoints / _ROLLBACKS, self.counters))
        self.bad = 0
        processes.on_first(lambda: self.log.rewind(self.plan.name, self.done))
        self.clock, self.since = time.monotonic(), self.done
        self.reporter.say(f"{text}; back to step {self.done} ({tried + 1} of {self.plan.rollbacks} times)")

    # -- between steps -----------------------------------------------------------------------------------------

    def _after(self, last: int, task: Task) -> bool:
        """Log, save and show what is due; return False after a roll-back."""
        plan, done = self.plan, self.done
        log_now, save_now = (done % every == 0 or done == last for every in (plan.log_every, plan.checkpoint_every))
        if log_now or save_now:
            self.broken.settle()
        if log_now:
            task.update(done, self._log())
        if save_now and not self.save():
            self._roll_back("weights were not finite")
            return False
        if self._look_due(last):
            self._look(done)
        return True

    def _look_due(self, last: int) -> bool:
        every = self.plan.look_every
        return bool(every) and (self.done % every == 0 or self.done == last)

    def _looked(self, step: int) -> bool:
        return self.stage.looked(step, self._picture(step))

    def _picture(self, step: int) -> Path:
        return self.folder / "samples" / f"{self.plan.name}-step-{step:08d}.png"

    def _look(self, step: int) -> None:
        """Draw samples or measure; what cannot be done ends no run."""
        try:
            self.stage.look(step, self._picture(step))
        except Exception as error:  # out of memory, no room, a schedule that does not fit: training matters more
            self.reporter.say(f"step {step}: {self.stage.looks_at} not done ({type(error).__name__}: {error})")

    def save(self) -> bool:
        """Write a checkpoint; return False, with nothing written, if a number in it is not finite."""
        if self.saved == self.done:
            return True
        finite = all_finite(tensor for tensor in self.kept.module.state_dict().values() if tensor.is_floating_point())
        if processes.agree(not finite, self.stage.device):
            return False
        save_checkpoint(self.checkpoints, self.done, self.kept, self.recipe_json, self.plan.keep)
        self.saved = self.done
        return True

    def _log(self) -> str:
        plan, done = self.plan, self.done
        read = self.stage.read()
        record = {"stage": plan.name, "step": done, "epoch": done / plan.steps_per_epoch, **read}
        rate = (done - self.since) * plan.batch / max(1e-9, time.monotonic() - self.clock)
        lr = lr_at(done - 1, plan.steps, plan.warmup, plan.lr, plan.least_lr)
        record |= {"lr": lr, "grad_norm": self.last_norm, "skipped": self.counters["skipped"]}
        record |= {"broken_images": self.broken.count, "peak_memory_gib": peak_memory_gib(self.stage.device)}
        record["images_per_s"] = round(rate, 1)
        self.clock, self.since = time.monotonic(), done
        processes.on_first(lambda: self.log.write(record))
        return f"{self.stage.note(record) if read else 'no step was finite'}  {rate:.0f} images/s"

    def _stop(self) -> None:
        """Save and leave: this process, or another one, was told to stop."""
        self.broken.settle()
        saved = self.save()
        where = f"step {self.done} is saved" if saved else "its weights are not finite and were not saved"
        raise TrainingStopped(
            f"{self.signals.received or 'another process'}: training the {self.plan.name} stopped after step "
            f"{self.done} of {self.plan.steps}; {where}; go on with --resume"
        )
