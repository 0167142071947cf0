"""What keeps a training whole: checkpoints, steps left out, returns to the last good checkpoint, the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError, TrainingStopped
from mage_kit.base.files import read_json, write_json
from mage_kit.base.progress import ProgressTask
from mage_kit.layers.block_settings import as_written
from mage_kit.store.run_folders import CHECKPOINTS
from mage_kit.training.broken_images import BrokenImages
from mage_kit.training.checkpoints import State, list_checkpoints, resume, save_checkpoint
from mage_kit.training.events import FROM_CALLBACK, CheckpointEvent
from mage_kit.training.job import Job
from mage_kit.training.metrics import peak_memory_gib
from mage_kit.training.non_finite import all_finite, name_the_module
from mage_kit.training.players import Player
from mage_kit.training.run import Run
from mage_kit.training.step_clock import StepClock, words

_ROLLBACKS = "rollbacks.json"  # beside the checkpoints: how often one was taken up again

Copies = tuple[dict[str, Tensor], list[dict[str, Tensor]]]


class Recovery:
    """The state of a training, and its ways back.

    Args:
        job: What is trained.
        run: The run.
        players: Who trains.
        broken: Images passed over.
    """

    def __init__(self, job: Job, run: Run, players: Sequence[Player], broken: BrokenImages) -> None:
        self.job, self.run, self.players, self.broken, self.task = job, run, players, broken, job.task
        self.state = State(players, self.task.sums, {"bad": 0, "finite": 0, "skipped": 0, "rollbacks": 0})
        self.checkpoints = run.out / CHECKPOINTS / self.task.stage
        self.done, self.last_save = 0, 0
        self.clock, self.since = time.monotonic(), 0
        self.step_clock = StepClock(run.device)
        self._moving = [player.moving() for player in players]

    def take_up(self, last: int) -> int:
        """Load the newest checkpoint, if there is one; return the steps done."""
        self._load()
        self._recall_rollbacks()
        self._rewind()
        if self.done and self._look_due(self.done, last) and not processes.on_first(self._has_looked):
            self._look()  # the process before was killed between the checkpoint and this
        return self.done

    @property
    def bad(self) -> int:
        """Steps in a row, up to now, that were not finite; in checkpoints, so that a resumed run counts on."""
        return self.state.counters["bad"]

    @bad.setter
    def bad(self, count: int) -> None:
        self.state.counters["bad"] = count

    def _load(self) -> None:
        self.done = self.last_save = resume(self.state, self.checkpoints, self.run.reporter)

    def _rewind(self) -> None:
        processes.on_first(lambda: self.run.log.rewind(self.task.stage, self.done))
        self.clock, self.since = time.monotonic(), self.done
        self.step_clock.start()

    def _recall_rollbacks(self) -> None:
        """Count those made after the last checkpoint by a process that was killed: what failed is not tried alike."""
        file, counters = self.checkpoints / _ROLLBACKS, self.state.counters
        counts = processes.on_first(lambda: read_json(file) if file.is_file() else {})
        if counts.get("rollbacks", 0) > counters["rollbacks"]:
            counters.update({name: int(counts[name]) for name in ("rollbacks", "skipped")})

    # -- when numbers go wrong ---------------------------------------------------------------------------------

    def snapshot(self) -> Copies:
        """Copy what a forward pass changes: sums of metrics, and state that moves by itself."""
        sums = {name: value.clone() for name, value in self.state.sums.items()}
        return sums, [{name: _held_by(*place).clone() for name, place in moving.items()} for moving in self._moving]

    def restore(self, before: Copies, skip: Tensor | None = None) -> None:
        """Take back what a forward pass changed.

        Args:
            before: See `snapshot`.
            skip: 0-dim on the device: only where it is above 0; None for always.
        """
        sums, moving = before
        for name, tensor in self.state.sums.items():
            _put_back(tensor, sums.get(name, torch.zeros_like(tensor)), skip)
        for places, copies in zip(self._moving, moving, strict=True):
            for name, place in places.items():
                _put_back(_held_by(*place), copies[name], skip)

    def skip(self, again: Callable[[], None], step: int) -> int | None:
        """Leave a step out, all players; of several in a row, the first is looked into.

        Args:
            again: Repeats the step's passes.
            step: Its number, from 0.

        Returns:
            The step to go on from after a roll-back, or None.
        """
        self.bad += 1
        self.state.counters["skipped"] += 1
        if self.bad == 1:
            before = self.snapshot()
            self._forget_gradients()
            where = self._name(again)
            self.restore(before)
            self.run.reporter.say(f"step {step + 1}: loss or gradient not finite, {where}; the step is left out")
        self._forget_gradients()
        if self.bad < self.job.skip_limit:
            return None
        return self._roll_back(f"{self.bad} steps in a row were not finite", step)

    def _name(self, again: Callable[[], None]) -> str:
        alone = len(self.players) == 1
        roots = {"" if alone else f"{player.name}.": player.module for player in self.players}
        parameters = {
            ("" if alone else f"{player.name}.") + name: value
            for player in self.players
            for name, value in player.names.items()
        }
        with as_written(player.module for player in self.players):
            places = processes.collect(name_the_module(roots, parameters, again))
        return next((words for words in places if "output" in words), places[0])  # one process may see it, not others

    def _forget_gradients(self) -> None:
        for player in self.players:
            player.optimizer.zero_grad()

    def _roll_back(self, why: str, step: int) -> int:
        """Take up the last good checkpoint again, with other dropout; or stop, when that was done often enough."""
        self._forget_gradients()
        counters, stage = self.state.counters, self.task.stage
        returns, n_skipped = counters["rollbacks"], counters["skipped"]
        good = processes.on_first(lambda: list_checkpoints(self.checkpoints))
        text = f"training the {stage}: at step {step + 1} {why}"
        if returns >= self.job.rollbacks or not good:
            back = f"after {returns} returns to the last good checkpoint" if good else "and there is no checkpoint yet"
            safe = f"; {good[-1]} is intact" if good else ""
            message = f"{text}, {back}: stopped{safe}; start a new run with a lower learning rate"
            raise processes.shared(MageKitError(f"{message}, or with {self.job.path[2:]}.precision float32"))
        self._load()
        counters.update({"rollbacks": returns + 1, "skipped": n_skipped})
        processes.on_first(lambda: write_json(self.checkpoints / _ROLLBACKS, counters, listed=True))
        self.bad = 0
        self._rewind()
        self.run.reporter.say(f"{text}; back to step {self.done} ({returns + 1} of {self.job.rollbacks} times)")
        return self.done

    # -- between steps -----------------------------------------------------------------------------------------

    def is_due(self, done: int, last: int) -> bool:
        """Return whether `after` will read the state: every verdict must be known by then."""
        often = (self.job.log_every, self.job.checkpoint_every)
        return done == last or self._look_due(done, last) or not all(done % every for every in often)

    def after(self, done: int, last: int, progress: ProgressTask) -> int | None:
        """Log, save and show what is due after a step; return the step to go on from after a roll-back, or None."""
        job, self.done = self.job, done
        log_now, save_now = (done % every == 0 or done == last for every in (job.log_every, job.checkpoint_every))
        if log_now or save_now:
            self.broken.settle()
        if log_now:
            progress.update(done, self._log())
        if save_now and not self.save():
            return self._roll_back("weights were not finite", done - 1)
        if self._look_due(self.done, last):
            self._look()
        return None

    def go_on(self) -> None:
        """Know that a step was finite: a row of those that were not has ended."""
        self.bad = 0
        self.state.counters["finite"] += 1

    def check_moved(self) -> None:
        """Make sure at the end that anything was trained at all.

        Raises:
            MageKitError: If no step was finite.
        """
        if self.bad and self.done == self.job.steps and not self.state.counters["finite"]:
            text = f"training the {self.task.stage}: none of {self.done} steps was finite, nothing was learned"
            raise processes.shared(MageKitError(f"{text}; start a new run with a lower learning rate"))

    def _look_due(self, done: int, last: int) -> bool:
        every = self.task.look_every()
        return bool(every) and (done % every == 0 or done == last)

    def _has_looked(self) -> bool:
        return self.task.has_looked(self.done, self._picture())

    def _picture(self) -> Path:
        return self.run.out / "samples" / f"{self.task.stage}-step-{self.done:08d}.png"

    def _look(self) -> None:
        """Draw samples or measure; what cannot be done ends no run."""
        try:
            self.task.look(self.done, self._picture())
        except Exception as error:  # out of memory, no room, a schedule that does not fit: training matters more
            if FROM_CALLBACK in getattr(error, "__notes__", ()):
                raise  # the caller's own word, which ends the run
            what = f"{self.task.looks_at} not done ({type(error).__name__}: {error})"
            self.run.reporter.say(f"step {self.done}: {what}")

    def save(self) -> bool:
        """Write a checkpoint; return False, with nothing written, if a number in it is not finite."""
        if self.last_save == self.done:
            return True
        states = (tensor for player in self.players for tensor in player.module.state_dict().values())
        finite = all_finite(tensor for tensor in states if tensor.is_floating_point())
        if processes.agree(not finite, self.run.device):
            return False
        text, job = self.run.resolved.text, self.job
        target = save_checkpoint(self.checkpoints, self.done, self.state, text, job.keep, job.keep_every)
        self.last_save = self.done
        self.run.callbacks.tell(CheckpointEvent(self.task.stage, self.done, target))
        return True

    def _log(self) -> str:
        job, done = self.job, self.done
        values = self._read()
        record: dict[str, Any] = {"stage": self.task.stage, "step": done, "epoch": done / job.steps_per_epoch, **values}
        rate = (done - self.since) * job.layout.batch / max(1e-9, time.monotonic() - self.clock)
        for number, player in enumerate(self.players):
            end = f"_{player.name}" if number else ""
            record[f"lr{end}"] = player.rate_at(done - 1, job.steps)
            if math.isfinite(player.norm):
                record[f"grad_norm{end}"] = player.norm
        record |= {"skipped": self.state.counters["skipped"], "broken_images": self.broken.count}
        shares = self.step_clock.read()
        record |= {"peak_memory_gib": peak_memory_gib(self.run.device), "images_per_s": round(rate, 1)}
        record["step_shares"] = shares
        self.clock, self.since = time.monotonic(), done
        self.run.log.write(record)
        waits = words(shares)
        note = self.task.note(record) if values else "no step was finite"
        return f"{note}  {rate:.0f} images/s{f' ({waits})' if waits else ''}"

    def _read(self) -> dict[str, Any]:
        """The task's metrics; with several players the objective of each, and the first one's where no loss is told."""
        values = self.task.read()
        names = [f"objective_{player.name}" for player in self.players]
        objectives = {name: values.pop(name) for name in names if name in values}
        if names[0] in objectives:
            values.setdefault("loss", objectives[names[0]])
        return values | (objectives if len(names) > 1 else {})

    def stop(self) -> None:
        """Save and leave: this process, or another one, was told to stop."""
        self.broken.settle()
        is_saved = self.save()
        where = f"step {self.done} is saved" if is_saved else "its weights are not finite and were not saved"
        raise TrainingStopped(
            f"{self.run.signals.received or 'another process'}: training the {self.task.stage} stopped after step "
            f"{self.done} of {self.job.steps}; {where}; go on with --resume"
        )


def _put_back(tensor: Tensor, before: Tensor, skip: Tensor | None) -> None:
    tensor.copy_(before if skip is None else torch.where(skip > 0, before, tensor))


def _held_by(module: nn.Module, name: str) -> Tensor:
    """The tensor under a name by now: a forward pass may put another one there."""
    tensor: Tensor = getattr(module, name)
    return tensor
