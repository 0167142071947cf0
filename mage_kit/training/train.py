"""Training: recipe in, run folder out, by one loop for every task.

A step is drawn from (seed, step) alone, so a run can be left and taken up at any of them, by any number of processes.
Steps are all or none: where one player's numbers are not finite, nobody moves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mage_kit.base import processes
from mage_kit.base.doors import trusted
from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.optimizers import set_lr, take_step
from mage_kit.recipes import Recipe
from mage_kit.store.folders import best_device
from mage_kit.training.announcement import announce
from mage_kit.training.batches import Batch
from mage_kit.training.clipping import clip_divisor, gradient_norm
from mage_kit.training.engine_door import engine_maker
from mage_kit.training.events import (
    Callbacks,
    CheckpointEvent,
    EndEvent,
    LogEvent,
    StepEvent,
    TensorBoard,
)
from mage_kit.training.extension import compare_rates
from mage_kit.training.job import Job
from mage_kit.training.kernels import set_blocks
from mage_kit.training.loader import Order, Share, batches
from mage_kit.training.players import Player, check_objective, check_players, check_reached
from mage_kit.training.prefetch import prefetch, time_waits
from mage_kit.training.recovery import Recovery
from mage_kit.training.resolve import Images, resolve
from mage_kit.training.run import Run, begin, broken_images, conclude, is_done, open_run, stop_between
from mage_kit.training.tasks.base import dropout_seed
from mage_kit.training.tasks.context import TrainingStep
from mage_kit.training.verdicts import Docket, skips, steps_behind

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    extend: bool = False,
    reporter: Reporter | None = None,
    until: int | None = None,
    images: Images | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    on_log: Callable[[LogEvent], None] | None = None,
    on_checkpoint: Callable[[CheckpointEvent], None] | None = None,
    on_end: Callable[[EndEvent], None] | None = None,
) -> Path:
    """Train what a recipe describes, by the task that it names, with all processes that torchrun started.

    Args:
        recipe: With data and training; `Recipe.of(model).extended(...)` makes one of a model composed in Python.
        out: The run folder; new or empty, unless `resume`.
        resume: Go on from the newest checkpoint; the recipe must be the one of the run.
        extend: Go on beyond the end: as `resume`, and the recipe may have more epochs or steps, and another rate.
        reporter: Where progress goes.
        until: Stop each stage after this step, as if it were its last; None for the recipe's. To go on later with a
            model after a tokenizer that was cut short, remove the model's checkpoints.
        images: To train and to measure accuracy on, instead of those that the recipe names.
        on_step: Told of each step, in the first process; what it raises ends the run. This and the next three must be
            functions in every process, or None in every process.
        on_log: Told of each line of the log; `on_checkpoint` of each checkpoint, `on_end` of each stage's end.

    Returns:
        The run folder, for `mage_kit.load`, `load_classifier` or `load_tokenizer`.

    Raises:
        MageKitError: If the folder holds something else, the data cannot be read, or training goes wrong.
        ValueError: If a function is passed in some processes only, or `until` is below 1.
        TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
    """
    if until is not None and until < 1:
        raise MageKitError(f"until: {until}, must be at least 1")
    make_engine, folder = engine_maker(), Path(out)
    device = best_device()
    processes.start(device)
    reporter = (reporter or Reporter()) if processes.is_first() else Reporter.silent()
    with contextlib.closing(TensorBoard(folder)) as board:
        on_logs = [board.on_log, on_log]
        callbacks = Callbacks.of(on_step=[on_step], on_log=on_logs, on_checkpoint=[on_checkpoint], on_end=[on_end])
        callbacks.check_alike()
        resolved = processes.first_ahead(partial(resolve, recipe, device, images))  # mistakes show before a folder
        with open_run(resolved, folder, device, reporter, callbacks, resume, extend) as run:
            for number, job in enumerate(resolved.jobs):
                if number:
                    stop_between(run)
                if is_done(job, run):
                    continue
                job, precision = begin(job, run)
                loop = Loop(job, run, make_engine(device, job.task.shard, precision == "bfloat16"), precision)
                loop.run(until)
                conclude(job, run, loop.players, until)
    return folder


class Loop:
    """A task on its way to its last step.

    Args:
        job: What is trained, and how it is carried out.
        run: The run.
        fabric: The engine.
        precision: "float32" or "bfloat16".
    """

    def __init__(self, job: Job, run: Run, fabric: Fabric, precision: str = "float32") -> None:
        self.job, self._run, self.fabric, self.task = job, run, fabric, job.task
        self.bfloat16 = precision == "bfloat16"
        self.players = list(self.task.players())
        check_players(self.players, job.steps)
        self._check_means()
        for player in self.players:
            player.enter(fabric, partial(self.task.objective, player.name))
            set_blocks(player.module, job, run.reporter)  # with the engine's hooks
        self.order = Order(len(job.images), job.layout.batch, derive(run.resolved.seed, self.task.makes))
        self.broken = broken_images(job, run)
        self.recovery = Recovery(job, run, self.players, self.broken)
        self.state = self.recovery.state
        self.done, self.stopping = 0, False
        self.docket = Docket(steps_behind(run.device, bool(run.callbacks.on_step)))
        self._looked_at: set[str] = set()  # players whose first gradients were
        announce(job, self.players, run.reporter)

    def _check_means(self) -> None:
        """Refuse what would be lost, or not be sharded, in silence."""
        for player in self.players:
            whole = (self._run.resolved.model, self._run.resolved.tokenizer)
            if player.ema is not None and not any(player.module is part for part in whole):
                rule = "must be None: running means are written of the recipe's whole model or tokenizer alone"
                raise MageKitError(f"player '{player.name}': ema {player.ema}, {rule}")
        if self.task.shard and len(self.players) > 1 and processes.world() > 1:
            raise MageKitError(f"{self.job.path}.shard: true, must be false with {len(self.players)} players")

    def run(self, until: int | None = None) -> None:
        """Train from the newest checkpoint, or from the start, to the last step.

        Args:
            until: Stop after this step, as if it were the last; None for the job's.

        Raises:
            MageKitError: If the numbers stay non-finite, too many images are broken, or the disk is full.
            TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
        """
        last = min(self.job.steps, until or self.job.steps)
        self.done = self.recovery.take_up(last)
        if self._run.extension and self.done:
            words = partial(compare_rates, self._run.out, self.task.stage, self.players, self.job.steps, self.done)
            self._run.choose(f"{self.task.stage}_extension_{self.job.steps}", "extended {}", words)
        with self._run.reporter.task(f"training the {self.task.stage}", last, self.done) as progress:
            while self.done < last:
                ready = prefetch(self.batches(self.done, last), self._run.device)
                for step, batch in enumerate(time_waits(ready, self.recovery.step_clock.add_wait), start=self.done):
                    self.broken.note(batch.broken)
                    self.broken.remark(batch.remarks)
                    self._step(batch, step)
                    back = self._judge(self.recovery.is_due(step + 1, last))
                    if back is None and self.stopping and step + 1 < last:
                        back = self._judge(True)
                    if back is None:
                        back = self.recovery.after(step + 1, last, progress)
                    self.done = step + 1 if back is None else back
                    if back is not None:
                        self.docket.clear()
                        break
                    if self.stopping and self.done < last:
                        self.recovery.stop()
        self.recovery.check_moved()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield this process's part of the batches of steps `first` to `last` - 1."""
        job, share, seed = self.job, Share(processes.rank(), processes.world()), self._run.resolved.seed
        seed = (
            derive(seed, "tokenizer-views") if self.task.makes == "tokenizer" else seed
        )  # other crops than the model's
        return batches(job.images, self.order, first, last, seed, job.workers or 0, share)

    def _step(self, batch: Batch, step: int) -> None:
        """Do one step; the device leaves it out, with nothing changed, if an objective or a gradient is not finite."""
        before = self.recovery.snapshot()
        self.seed(step)
        objectives = self.gradients(batch, step)
        stop = torch.full_like(objectives[:1], float(self._run.signals.received is not None))
        *totals, any_stop = processes.add_up(torch.cat([objectives, stop])).unbind()
        playing = [player for player in self.players if player.plays(step)]
        for player in playing:
            self._check_reached(player)
        norms = [gradient_norm(player.names.values()) for player in playing]
        losses = [total for player, total in zip(self.players, totals, strict=True) if player in playing]
        skip = skips(torch.stack([*losses, *norms]))
        for player, norm in zip(playing, norms, strict=True):
            self._move(player, step, norm, skip)
        self.recovery.restore(before, skip)
        self.docket.enter(step, batch, [player.name for player in playing], torch.stack([*losses, *norms, any_stop]))

    def _judge(self, all_of_them: bool) -> int | None:
        """Act on the verdicts that are due, or on all; return the step to go on from after a roll-back, or None."""
        for verdict in self.docket.verdicts(all_of_them):
            self.stopping = verdict.stop
            for player in self.players:
                player.norm = verdict.norms.get(player.name, player.norm)
            self._run.callbacks.tell(
                StepEvent(
                    self.task.stage, verdict.step + 1, self.job.steps, verdict.losses, verdict.norms, not verdict.good
                )
            )
            if verdict.good:
                self.recovery.go_on()
                continue
            back = self.recovery.skip(partial(self._again, verdict.batch, verdict.step), verdict.step)
            if back is not None:
                return back
        return None

    def _check_reached(self, player: Player) -> None:
        if player.name not in self._looked_at:
            self._looked_at.add(player.name)
            if words := check_reached(player, processes.world()):
                self._run.reporter.say(words)

    def _move(self, player: Player, step: int, norm: Tensor, skip: Tensor) -> None:
        set_lr(player.optimizer, player.rate_at(step, self.job.steps))
        take_step(player.optimizer, skip, clip_divisor(norm, player.clip))
        player.optimizer.zero_grad()
        if player.mean is not None:
            player.mean.update(step + 1 - player.first_step, skip)

    def gradients(self, batch: Batch, step: int) -> Tensor:
        """Forward and backward of all passes, for each player in turn.

        The engine takes the mean of the processes' gradients, the division here that of the passes.

        Returns:
            This process's part of each player's objective (P,), detached; 0 for those who do not play yet.
        """
        moment = TrainingStep(step, self.job.steps, self._run.resolved.seed)
        pieces = self.task.cut(batch, moment)
        objectives = torch.zeros(len(self.players), device=self._run.device)
        self.task.share = 1.0 / (len(pieces) * processes.world())
        for number, piece in enumerate(pieces):
            with trusted(), self.recovery.step_clock.tokenizing():
                work = self.task.prepare(piece, moment)
            for place, player in enumerate(self.players):
                if not player.plays(step):
                    continue
                with self._turn(player, last=number == len(pieces) - 1):
                    with trusted(), torch.autocast(self._run.device.type, torch.bfloat16, enabled=self.bfloat16):
                        objective = player.wrapped(work, moment)
                    check_objective(player.name, objective)
                    self.fabric.backward(objective / len(pieces))
                objectives[place] += objective.detach().float() * self.task.share
                self.task.tally(f"objective_{player.name}", objective)
        return objectives

    @contextlib.contextmanager
    def _turn(self, player: Player, last: bool) -> Iterator[None]:
        """One player's pass: the others' parameters are constants; gradients travel with the last pass alone."""
        others = [value for other in self.players if other is not player for value in other.names.values()]
        for value in others:
            value.requires_grad_(False)
        try:
            with self.fabric.no_backward_sync(player.wrapped, enabled=not last):
                yield
        finally:
            for value in others:
                value.requires_grad_(True)

    def seed(self, step: int) -> None:
        """Seed what dropout draws from in a step."""
        rollbacks = self.state.counters["rollbacks"]
        torch.manual_seed(dropout_seed(self._run.resolved.seed, self.task.stage, step, processes.rank(), rollbacks))

    def _again(self, batch: Batch, step: int) -> None:
        """Repeat a step's passes, for those who look at them."""
        self.seed(step)
        self.gradients(batch, step)
