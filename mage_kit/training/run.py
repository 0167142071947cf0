"""A run: recipe in, run folder out. Tokenizer first where it is untrained, then the model.

Folder: recipe.json, decisions.json, metrics.jsonl, checkpoints/STAGE/step-*, tokenizer/, at the end model.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from mage_kit.datasets import Dataset
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.files import (
    atomic_folder,
    drop_temporaries,
    read_json,
    write_json,
    write_tensors,
    write_text,
)
from mage_kit.loading import load_tokenizer
from mage_kit.model import Mage
from mage_kit.plugins import PLUGINS_FILE, plugin_folders
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.storage import (
    MODEL_FILE,
    RECIPE_FILE,
    TOKENIZER_CARD,
    TOKENIZER_FOLDER,
    best_device,
    save_tokenizer,
    state_of,
)
from mage_kit.tokenizers import TOKENIZERS, Tokenizer
from mage_kit.training.loop import run_loop
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.model_stage import ModelStage, model_attention, model_precision, tokenization_precision
from mage_kit.training.probe import Decisions, fabric_precision
from mage_kit.training.tokenizer_stage import TokenizerStage, tokenizer_precision

DATA_FILE = "data.json"


def train(recipe: Recipe, out: Path, *, resume: bool = False, reporter: Reporter | None = None) -> Path:
    """Train tokenizer and model as the recipe says.

    Args:
        recipe: A recipe with data and training.
        out: The run folder; must be new or empty unless `resume`.
        resume: Go on from the newest checkpoint; the recipe must be the one of the run.
        reporter: Where progress goes.

    Returns:
        The run folder, with a model that `mage_kit.load` reads.

    Raises:
        MageKitError: If the folder holds something else, or the data cannot be read.
    """
    reporter = reporter or Reporter()
    recipe.check()
    if recipe.training is None:
        raise RecipeError(["$.training: missing, training needs it"], recipe.name)
    dataset = recipe.build_dataset()
    _check_sizes(recipe, len(dataset))
    given = _given_tokenizer(recipe)  # a mistake shows before there is a folder
    _open_folder(recipe, dataset, out, resume)
    decisions, log = Decisions(out), MetricsLog(out)
    try:
        tokenizer = given
        if tokenizer is None:
            tokenizer = _trained_tokenizer(recipe, dataset, out, decisions, log, reporter)
        model = recipe.build_model(tokenizer)
        if (out / MODEL_FILE).is_file():
            reporter.say(f"{out} is complete; nothing to do")
            return out
        _train_model(recipe, dataset, model, out, decisions, log, reporter)
    finally:
        log.close()
    write_tensors(out / MODEL_FILE, state_of(model))
    reporter.say(f"model written to {out}")
    return out


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


def _open_folder(recipe: Recipe, dataset: Dataset, out: Path, resume: bool) -> None:
    """Make the run folder, or make sure that it is this recipe's, on the same images."""
    stored, identity = out / RECIPE_FILE, out / DATA_FILE
    if resume and stored.is_file():
        before, now = (json.loads(each.to_json()) for each in (Recipe.load(stored), recipe))
        changed = [f"$.{key}: differs from the run's recipe" for key in now if before.get(key) != now[key]]
        if changed:
            raise RecipeError(changed, f"--resume {out}")
        if identity.is_file() and read_json(identity) != dataset.identity():
            raise MageKitError(f"--resume {out}: the images are not those of the run ({identity}); start a new run")
        drop_temporaries(out)
        return
    if resume:
        raise MageKitError(f"--resume {out}: no run there ({RECIPE_FILE} is missing); start one without --resume")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or --resume a run of the same recipe")
    out.mkdir(parents=True, exist_ok=True)
    write_json(identity, dataset.identity())
    write_json(out / PLUGINS_FILE, plugin_folders(recipe.plugins))
    write_text(stored, recipe.to_json())


# -- first stage -----------------------------------------------------------------------------------------------


def tokenizer_fingerprint(recipe: Recipe, dataset: Dataset) -> str:
    """Return what a trained tokenizer depends on: its form, its training, the images and the seed."""
    precision = recipe.training.precision if recipe.training else "auto"
    text = (
        recipe.fingerprint("tokenizer", "tokenizer_training", "data", "seed")
        + json.dumps(dataset.identity())
        + precision
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _trained_tokenizer(
    recipe: Recipe, dataset: Dataset, out: Path, decisions: Decisions, log: MetricsLog, reporter: Reporter
) -> Tokenizer:
    """Return a tokenizer trained before with the same fingerprint, or a new one."""
    tokenizer = recipe.build_tokenizer()
    fingerprint = tokenizer_fingerprint(recipe, dataset)
    own = out / TOKENIZER_FOLDER
    for folder in [own, *sorted(out.resolve().parent.glob(f"*/{TOKENIZER_FOLDER}"))]:
        if _card(folder).get("fingerprint") == fingerprint:
            try:
                fill_tokenizer(tokenizer, recipe, folder)
            except MageKitError as error:
                reporter.say(f"tokenizer {folder} is damaged and passed over: {error}")
                continue
            if folder != own:
                reporter.say(f"reusing the tokenizer of {folder.parent} (fingerprint {fingerprint[:12]})")
                with atomic_folder(own) as temporary:
                    shutil.copytree(folder, temporary, dirs_exist_ok=True)
            return tokenizer
    _train_tokenizer(recipe, dataset, tokenizer, out, decisions, log, reporter)
    save_tokenizer(tokenizer, own, overwrite=True, fingerprint=fingerprint)  # a damaged one may lie there
    return tokenizer


def _given_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """Return a tokenizer that needs no training here: nothing to learn, or weights named; None otherwise."""
    tokenizer = recipe.build_tokenizer()
    weights: str | None = recipe.tokenizer.get("weights")
    if tokenizer.needs_training and weights is None:
        return None
    if weights is not None:
        fill_tokenizer(tokenizer, recipe, Path(weights))
    return tokenizer


def _train_tokenizer(
    recipe: Recipe,
    dataset: Dataset,
    tokenizer: Tokenizer,
    out: Path,
    decisions: Decisions,
    log: MetricsLog,
    reporter: Reporter,
) -> None:
    device = best_device()
    choice = decisions.get("tokenizer_precision", lambda: tokenizer_precision(recipe, tokenizer, device))
    reporter.say(f"tokenizer in {choice.value}: {choice.reason}")
    fabric = Fabric(accelerator=device.type, devices=1, precision=fabric_precision(choice.value))
    stage = TokenizerStage(recipe, dataset, tokenizer, fabric)
    run_loop(stage, stage.plan(), out, recipe.to_json(), log, reporter)
    tokenizer.cpu().finish_training()


def fill_tokenizer(tokenizer: Tokenizer, recipe: Recipe, folder: Path) -> None:
    """Fill a tokenizer from a folder that this program wrote or converted: a tokenizer's, a run's or a model's.

    Raises:
        RecipeError: If the folder holds no tokenizer, or one of another form.
    """
    if not folder.is_dir():
        hint = "; convert a checkpoint first (mage-kit convert)" if folder.is_file() else ""
        raise RecipeError([f"$.tokenizer.weights: '{folder}', must be a folder with a tokenizer{hint}"], recipe.name)
    try:
        found = load_tokenizer(folder)
    except MageKitError as error:
        raise RecipeError([f"$.tokenizer.weights: {error}"], recipe.name) from None
    wanted, stored = recipe.tokenizer.model_dump(mode="json"), TOKENIZERS.describe(found, weights=None)
    ignored = {"weights", *tokenizer.training_only}
    differing = [
        f"$.tokenizer.{key}: {wanted.get(key)}, the trained one has {stored.get(key)}"
        for key in wanted
        if key not in ignored and wanted.get(key) != stored.get(key)
    ]
    if wanted["kind"] != stored.get("kind"):
        differing = differing[:1]  # the keywords of another kind say nothing
    if differing:
        raise RecipeError(differing, str(folder))
    tokenizer.load_state_dict(found.state_dict())
    tokenizer.eval()


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / TOKENIZER_CARD).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return card if isinstance(card, dict) else {}


# -- second stage ----------------------------------------------------------------------------------------------


def _train_model(
    recipe: Recipe,
    dataset: Dataset,
    model: Mage,
    out: Path,
    decisions: Decisions,
    log: MetricsLog,
    reporter: Reporter,
) -> None:
    device = best_device()
    precision = decisions.get("precision", lambda: model_precision(recipe, model, device))
    tokens = decisions.get("tokenization", lambda: tokenization_precision(model, dataset, device, precision.value))
    reporter.say(f"model in {precision.value}: {precision.reason}")
    reporter.say(f"tokenizing in {tokens.value}: {tokens.reason}")
    _warn_of_small_contrast(recipe, model, reporter)
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder)):  # their shapes differ
        decide = partial(model_attention, recipe, model, part, device, precision.value)
        form = decisions.get(f"attention_{name}", decide)
        reporter.say(f"attention of the {name} by {form.value}: {form.reason}")
        asked = recipe.kernels.attention != "auto" or recipe.kernels.backend == "reference"
        model.set_attention(form.value, None if asked else "sdpa", part)  # type: ignore[arg-type]  # of choose_attention
    _set_blocks(recipe, model, reporter)
    fabric = Fabric(accelerator=device.type, devices=1, precision=fabric_precision(precision.value))
    stage = ModelStage(recipe, dataset, model, fabric, tokens.value)
    run_loop(stage, stage.plan(), out, recipe.to_json(), log, reporter)
    model.cpu().eval()


def _set_blocks(recipe: Recipe, model: Mage, reporter: Reporter) -> None:
    """Recompute and compile as the recipe says; say so where there is nothing to do it with."""
    wishes = {"recompute": recipe.kernels.recompute, "compile": recipe.kernels.compile}
    counts = {"recompute": model.set_recomputation(wishes["recompute"])}
    counts["compile"] = model.compile_blocks() if wishes["compile"] else 0
    for name, wanted in wishes.items():
        if wanted and not counts[name]:
            reporter.say(f"$.kernels.{name}: true, but this model has no blocks of ours: nothing changes")


def _warn_of_small_contrast(recipe: Recipe, model: Mage, reporter: Reporter) -> None:
    """Say where accumulation leaves a contrastive loss fewer negatives than the batch has."""
    assert recipe.training is not None
    micro, batch = recipe.training.micro_batch, recipe.training.batch
    if micro is not None and micro < batch and any(getattr(loss, "contrasts_batch", False) for loss in model.losses):
        reporter.say(
            f"warning: training.micro_batch {micro} of batch {batch}: a contrastive loss sees the negatives of {micro} "
            "images only; accumulation is no larger contrastive batch"
        )
