"""A run: recipe in, run folder out. Tokenizer first where it is untrained, then the model.

Folder: recipe.json, data.json, decisions.json, metrics.jsonl, broken.json, checkpoints/STAGE/step-*, samples/,
tokenizer/, at the end model.safetensors and, with a running mean of the weights, ema.safetensors.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from mage_kit import processes
from mage_kit.datasets import Dataset, TokenCache
from mage_kit.errors import RecipeError, TrainingStopped
from mage_kit.files import locked, write_tensors
from mage_kit.losses import LOSSES
from mage_kit.model import Mage
from mage_kit.places import at
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.storage import EMA_FILE, MODEL_FILE, best_device, describe_tokenizer, state_of
from mage_kit.tokenizers import TOKENIZERS, Tokenizer
from mage_kit.training.block_wishes import set_blocks
from mage_kit.training.broken import BrokenImages
from mage_kit.training.context import Run
from mage_kit.training.engine import make_fabric, spread
from mage_kit.training.first_stage import given_tokenizer, trained_tokenizer
from mage_kit.training.folder import held_by_first, open_folder
from mage_kit.training.kernels import check_kernels, part_attention
from mage_kit.training.loop import Loop
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.model_stage import Drawer, ModelStage, model_precision, tokenization_precision
from mage_kit.training.pretrained import check_labels, fill_encoder, find_encoder
from mage_kit.training.probe import Decisions
from mage_kit.training.signals import StopSignals


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    draw: Drawer | None = None,
    until: int | None = None,
) -> Path:
    """Train tokenizer and model as the recipe says, with all processes that torchrun started.

    Args:
        recipe: A recipe with data and training.
        out: The run folder; must be new or empty unless `resume`.
        resume: Go on from the newest checkpoint; the recipe must be the one of the run.
        reporter: Where progress goes.
        draw: Makes pictures of samples, where the recipe asks for them.
        until: Stop each stage after this step, as if it were its last; None for the recipe's.

    Returns:
        The run folder, with a model that `mage_kit.load` reads.

    Raises:
        MageKitError: If the folder holds something else, the data cannot be read, or training goes wrong.
        TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
    """
    device = best_device()
    processes.start(device)
    reporter = (reporter or Reporter()) if processes.is_first() else Reporter.silent()
    dataset, tokenizer = _prepare(recipe, out, resume)
    hold = locked(out, "out") if processes.is_first() else contextlib.nullcontext()
    with held_by_first(hold), StopSignals() as signals, contextlib.closing(MetricsLog(out)) as log:
        broken = BrokenImages(dataset, out, reporter)
        run = Run(recipe, dataset, out, device, Decisions(out), log, broken, signals, reporter)
        if tokenizer is None:
            tokenizer = trained_tokenizer(run, until)
            if processes.agree(signals.received is not None, device):
                raise TrainingStopped(f"{signals.received}: the tokenizer is trained; go on with --resume")
        if processes.on_first((out / MODEL_FILE).is_file):
            reporter.say(f"{out} is complete; nothing to do")
            return out
        model = recipe.build_model(tokenizer)
        fill_encoder(model, recipe)
        _train_model(run, model, draw, until)
    return out


# -- before anything is trained --------------------------------------------------------------------------------


def _prepare(recipe: Recipe, out: Path, resume: bool) -> tuple[Dataset, Tokenizer | None]:
    """Open data and given tokenizer, and the folder; a mistake shows before there is one.

    The first process goes ahead, so that its error is the only one, and its index of the data is there for the others.
    """
    made: list[tuple[Dataset, Tokenizer | None]] = []

    def ahead() -> None:
        made.append(_open_parts(recipe))
        free = frozenset() if _contrasts(recipe) else frozenset({"micro_batch"})
        open_folder(recipe, made[0][0], out, resume, free)

    processes.on_first(ahead)
    return made[0] if made else _open_parts(recipe)


def _open_parts(recipe: Recipe) -> tuple[Dataset, Tokenizer | None]:
    model = recipe.check()
    if recipe.training is None:
        raise RecipeError(["$.training: missing, training needs it"], recipe.name)
    check_kernels(recipe, model, best_device())
    dataset = recipe.build_dataset()
    _check_sizes(recipe, len(dataset))
    spread("training", recipe.training.batch, recipe.training.micro_batch, recipe.name)
    check_labels(recipe, model, dataset)
    tokenizer = given_tokenizer(recipe)
    if tokenizer is not None:
        find_encoder(model, tokenizer, recipe)
    if isinstance(dataset, TokenCache):
        _check_cache(recipe, dataset, tokenizer)
    if tokenizer is None and recipe.tokenizer_training is not None:
        spread("tokenizer_training", recipe.tokenizer_training.batch, None, recipe.name)
    return dataset, tokenizer


def _check_cache(recipe: Recipe, dataset: TokenCache, tokenizer: Tokenizer | None) -> None:
    """Refuse tokens that another tokenizer made."""
    if tokenizer is None:
        advice = f"must name the one that made the cache (--set tokenizer.weights={dataset.path})"
        raise RecipeError([f"$.tokenizer.weights: null, {advice}"], recipe.name)
    with at("$.data", recipe.data):
        dataset.check_tokenizer(describe_tokenizer(tokenizer))


def _check_sizes(recipe: Recipe, images: int) -> None:
    """Refuse batches that the data cannot fill, before the first stage has cost its time."""
    learns = TOKENIZERS.get(recipe.tokenizer.kind).cls.needs_training
    trains = learns and recipe.tokenizer.get("weights") is None
    sections = {"training": recipe.training, "tokenizer_training": recipe.tokenizer_training if trains else None}
    found = [
        f"$.{name}.batch: {section.batch}, must be at most the number of images ({images})"
        for name, section in sections.items()
        if section is not None and section.batch > images
    ]
    if found:
        raise RecipeError(found, recipe.name)


def _contrasts(recipe: Recipe) -> bool:
    """Whether images that are computed at once are each other's negatives, so that their number matters."""
    return any(LOSSES.get(loss.kind).cls.contrasts_batch for loss in recipe.losses)


# -- second stage ----------------------------------------------------------------------------------------------


def _train_model(run: Run, model: Mage, draw: Drawer | None, until: int | None) -> None:
    recipe, device, reporter, decisions = run.recipe, run.device, run.reporter, run.decisions
    settings = recipe.training
    assert settings is not None
    precision = decisions.get("precision", lambda: model_precision(recipe, model, device))
    tokens = decisions.get("tokenization", lambda: tokenization_precision(model, run.dataset, device, precision.value))
    reporter.say(f"model in {precision.value}: {precision.reason}")
    reporter.say(f"tokenizing in {tokens.value}: {tokens.reason}")
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder)):  # their shapes differ
        decide = partial(part_attention, recipe, model, part, device, precision.value)
        form = decisions.get(f"attention_{name}", decide)
        reporter.say(f"attention of the {name} by {form.value}: {form.reason}")
        asked = recipe.kernels.attention != "auto" or recipe.kernels.backend == "reference"
        model.set_attention(form.value, None if asked else "sdpa", part)  # type: ignore[arg-type]  # of choose_attention
    fabric = make_fabric(device, precision.value, settings.shard)
    stage = ModelStage(recipe, run.dataset, model, fabric, tokens.value, draw)
    set_blocks(recipe.kernels, model, reporter)  # by now with the engine's hooks, which are compiled with them
    _say_batch(stage, reporter)
    plan = stage.plan()
    Loop(stage, plan, run.out, recipe.to_json(), run.log, run.broken, run.signals, reporter).run(until)
    if until is None or until >= plan.steps:  # one that was cut short is no model to be taken for trained
        _write_model(stage, run.out)
        reporter.say(f"model written to {run.out}")


def _write_model(stage: ModelStage, out: Path) -> None:
    """Write the weights, in full; the mean weights first, since the model's file says that the run is complete."""
    if stage.kept.ema is not None:
        means = stage.mean_state()
        processes.on_first(lambda: write_tensors(out / EMA_FILE, means))
    state = state_of(stage.model)
    processes.on_first(lambda: write_tensors(out / MODEL_FILE, state))


def _say_batch(stage: ModelStage, reporter: Reporter) -> None:
    """Print the arithmetic of the effective batch, and where it leaves a contrastive loss fewer negatives than that."""
    spread, settings = stage.spread, stage.settings
    sharded = "sharded, " if settings.shard and spread.world > 1 else ""
    reporter.say(
        f"model: {sharded}{spread}; learning rate {settings.base_lr:g} x {spread.batch} / 256 = {stage.peak_lr:g}"
    )
    if settings.shard and spread.world == 1:
        reporter.say("$.training.shard: true, but there is one process: nothing is sharded")
    seen = spread.micro * spread.world
    if seen < spread.batch and any(getattr(loss, "contrasts_batch", False) for loss in stage.model.losses):
        reporter.say(
            f"warning: training.micro_batch {spread.micro} on {spread.world} processes: a contrastive loss sees the "
            f"negatives of {seen} of the {spread.batch} images only; accumulation is no larger contrastive batch"
        )
