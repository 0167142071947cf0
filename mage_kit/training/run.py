"""What the trainings of one run share, how each begins, and what each leaves.

Folder: recipe.json, data.json, decisions.json, metrics.jsonl, broken.json, checkpoints/STAGE/step-*, samples/,
tokenizer/, at the end model.safetensors and, with a running mean of the weights, ema.safetensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError, TrainingStopped
from mage_kit.base.files import write_tensors
from mage_kit.base.manifest import check_file
from mage_kit.base.precision import Decision, choose_precision
from mage_kit.base.progress import Reporter
from mage_kit.datasets.base import identity_of
from mage_kit.store.folders import EMA_FILE, MODEL_FILE, TOKENIZER_CARD, TOKENIZER_FOLDER, save_tokenizer, state_of
from mage_kit.store.run_folders import CHECKPOINTS
from mage_kit.training.broken_images import BrokenImages
from mage_kit.training.checkpoints import list_checkpoints, mean_state
from mage_kit.training.compilation import compile_decision, compile_tokenizers
from mage_kit.training.decisions import Decisions
from mage_kit.training.events import Callbacks, EndEvent
from mage_kit.training.extension import check_extension, set_aside
from mage_kit.training.folder import changed_plugins, held_by_first, hold_folder, open_folder
from mage_kit.training.job import Job
from mage_kit.training.loading_processes import count_workers
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.resolve import Resolved
from mage_kit.training.signals import StopSignals
from mage_kit.training.sizing import fit_to_share
from mage_kit.training.tasks.context import Context
from mage_kit.training.tokenizer_reuse import take_trained
from mage_kit.training.weight_folders import read_tokenizer_card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mage_kit.training.players import Player


@dataclass(frozen=True)
class Run:
    """A run under way.

    Args:
        resolved: What it does, and with what.
        out: Its folder.
        device: Where it computes.
        decisions: What was measured at its start.
        log: Its metrics.
        signals: Whether it was told to stop.
        reporter: Where progress goes.
        callbacks: Who is told of what happens.
        extension: Whether it goes on beyond what was its end.
    """

    resolved: Resolved
    out: Path
    device: torch.device
    decisions: Decisions
    log: MetricsLog
    signals: StopSignals
    reporter: Reporter
    callbacks: Callbacks
    extension: bool = False

    def choose(self, name: str, words: str, decide: Callable[[], Decision]) -> Decision:
        """Return what was decided when the run began, and say it; see `tasks.context.Choose`."""
        decision = self.decisions.get(name, decide)
        self.reporter.say(f"{words.format(decision.value)}: {decision.reason}")
        return decision


@contextlib.contextmanager
def open_run(
    resolved: Resolved,
    out: Path,
    device: torch.device,
    reporter: Reporter,
    callbacks: Callbacks,
    resume: bool,
    extend: bool = False,
) -> Iterator[Run]:
    """Hold a run's folder while it is trained in."""
    hold = (
        hold_folder(out, resume or extend, "--extend" if extend else "--resume")
        if processes.is_first()
        else contextlib.nullcontext()
    )
    with held_by_first(hold), StopSignals() as signals:
        processes.on_first(lambda: _open(resolved, out, resume, extend))
        for line in resolved.remarks:
            reporter.say(line)
        if changed := processes.on_first(lambda: changed_plugins(out)):
            words = "their code is not what it was when the run began; what is still to come follows the new"
            reporter.say(f"plugins: {', '.join(changed)}: {words}")
        yield Run(
            resolved, out, device, Decisions(out), MetricsLog(out, callbacks), signals, reporter, callbacks, extend
        )


def _open(resolved: Resolved, out: Path, resume: bool, extend: bool) -> None:
    identity, job = identity_of(resolved.images), resolved.jobs[-1]
    open_plainly = partial(open_folder, out, resolved.text, identity, resolved.plugins)
    if not extend:
        open_plainly(resume=resume, free=resolved.free)
        return

    def change() -> None:
        check_extension(out, job)
        set_aside(out, job)

    open_plainly(resume=True, free=resolved.free | resolved.extends, flag="--extend", change=change)


def is_done(job: Job, run: Run) -> bool:
    """Return whether what a job makes is there: a tokenizer of its fingerprint, which is then filled in, or a model."""
    resolved, reporter = run.resolved, run.reporter
    if job.fingerprint is not None:
        alone = resolved.model is None
        form = dict(resolved.tokenizer_form)
        is_there = take_trained(resolved.tokenizer, form, job.fingerprint, run.out, beside=not alone, reporter=reporter)
        if is_there and alone:
            reporter.say(f"{run.out} is complete; nothing to do")
        elif not is_there:
            processes.on_first(lambda: _check_uncut(run))
        return is_there
    if not processes.on_first((run.out / MODEL_FILE).is_file):
        return False
    if words := processes.on_first(lambda: _damage(run.out / MODEL_FILE)):
        reporter.say(f"{words}; it is written again from the newest checkpoint")
        return False
    reporter.say(f"{run.out} is complete; nothing to do")
    return True


def _damage(file: Path) -> str:
    """Return why a model's file does not count; nothing where it is as it was written."""
    try:
        return "" if check_file(file) else f"{file}: unverified, no manifest lists it"
    except MageKitError as error:
        return str(error)


def _check_uncut(run: Run) -> None:
    """Refuse to train a tokenizer further under a model that already knows the tokens of what it was.

    Raises:
        MageKitError: If `until` cut the tokenizer's training short, and the model after it has checkpoints.
    """
    card = run.out / TOKENIZER_FOLDER / TOKENIZER_CARD
    later = run.out / CHECKPOINTS / run.resolved.jobs[-1].task.stage
    is_cut = card.is_file() and not read_tokenizer_card(card.parent).get("fingerprint")
    if is_cut and len(run.resolved.jobs) > 1 and list_checkpoints(later):
        rule = f"remove '{later}' to train the model anew on a whole tokenizer, or start a new run"
        raise MageKitError(f"out: '{run.out}', its model was trained on a tokenizer that was cut short; {rule}")


def begin(job: Job, run: Run) -> tuple[Job, str]:
    """Say what a job is, choose what is left to the machine, and bring the task into the run.

    Returns:
        The job, nothing left to the machine in it, and its precision.
    """
    task, device, stage = job.task, run.device, job.task.stage
    if job.fingerprint is not None and run.resolved.model is not None:
        run.reporter.say(
            f"tokenizer.weights: null, so the tokenizer is trained first, {job.steps} steps on these "
            f"{len(job.images)} images (name a folder with --set tokenizer.weights=DIR to use one)"
        )

    parameters = sum(value.numel() for value in nn.ModuleList(_modules_in(vars(task))).parameters())
    precision = partial(choose_precision, job.precision, device, parameters)
    precision_here = run.choose(f"{stage}_precision", f"{stage} in {{}}", precision).value
    if job.sizes is not None:
        size = partial(job.sizes, device, precision_here)
        micro = run.choose(f"{stage}_micro_batch", "{} images at once", size).value
        job = replace(job, layout=fit_to_share(int(micro), job.layout))
    task.decide(run.choose, device, precision_here, job.layout.micro)
    if job.compile is not False:
        compiled = partial(compile_decision, job, run.resolved.model, device, precision_here)
        job = replace(job, compile=run.choose(f"{stage}_compile", "compiled blocks: {}", compiled).value == "on")
    if job.workers is None:
        workers, why = processes.on_first(lambda: count_workers(job, device))
        run.reporter.say(f"loading in {workers} processes: {why}")
        job = replace(job, workers=workers)
    meet(job, run)
    if job.compile and device.type == "cuda" and not job.images.gives_tokens:
        run.reporter.say(compile_tokenizers(run.resolved.model))
    return job, precision_here


def _modules_in(value: object) -> list[nn.Module]:
    """Modules of a task: its attributes, and those in lists, tuples and mappings of them."""
    if isinstance(value, nn.Module):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [module for part in value for module in _modules_in(part)] if isinstance(value, list | tuple) else []


def meet(job: Job, run: Run) -> None:
    """Bring a job's task into the run: the tokenizer that is to be trained in training mode, the task its context."""
    if job.fingerprint is not None:
        run.resolved.tokenizer.start_training()
    seed, per_epoch = run.resolved.seed, job.steps_per_epoch
    context = Context(job.images, job.layout, job.steps, per_epoch, seed, run.device, run.out, run.log, run.reporter)
    job.task.enter(context)


def conclude(job: Job, run: Run, players: Sequence[Player], until: int | None) -> None:
    """Write what a job made; the model's file last, since it says that the run is complete."""
    short = until is not None and until < job.steps
    folder = run.out
    if job.fingerprint is not None:
        if not short:
            job.task.finish(players)
        tokenizer, folder = run.resolved.tokenizer, run.out / TOKENIZER_FOLDER
        _take_means(tokenizer, players)
        tokenizer.cpu().finish_training()
        print_of = None if short else job.fingerprint  # one that was cut short is nobody else's
        # A damaged one may lie there.
        processes.on_first(lambda: save_tokenizer(tokenizer, folder, overwrite=True, fingerprint=print_of) and None)
    elif not short:  # one that was cut short is no model to be taken for trained
        job.task.finish(players)
        _write_model(run, players)
        run.log.close()
        run.reporter.say(f"{job.task.stage} written to {run.out}")
    run.callbacks.tell(EndEvent(job.task.stage, min(job.steps, until or job.steps), folder, not short))


def stop_between(run: Run) -> None:
    """End the run between two trainings, where it was told to.

    Raises:
        TrainingStopped: If any process was.
    """
    if processes.agree(run.signals.received is not None, run.device):
        raise TrainingStopped(
            f"{run.signals.received or 'another process'}: the tokenizer is trained; go on with --resume"
        )


def _take_means(tokenizer: nn.Module, players: Sequence[Player]) -> None:
    """Where a running mean of the tokenizer's weights was kept, it takes their place."""
    for player in players:
        if player.module is tokenizer and player.mean is not None:
            with torch.no_grad():
                for name, value in player.mean.means.items():
                    player.names[name].copy_(value)


def _write_model(run: Run, players: Sequence[Player]) -> None:
    model = run.resolved.model
    assert model is not None
    for player in players:
        if player.module is model and player.mean is not None:
            means = mean_state(player)
            processes.on_first(lambda means=means: write_tensors(run.out / EMA_FILE, means, listed=True))  # type: ignore[misc]  # a default is not inferred
    state = state_of(model)
    processes.on_first(lambda: write_tensors(run.out / MODEL_FILE, state, listed=True))


def broken_images(job: Job, run: Run) -> BrokenImages:
    """Return the list of images that a job passes over."""
    return BrokenImages(job.images, run.out, run.reporter)
