"""The tokenizer of a run: named, found beside the run with the same fingerprint, or trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from mage_kit import processes
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.datasets import Dataset
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.files import atomic_folder
from mage_kit.loading import load_tokenizer
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.storage import TOKENIZER_CARD, TOKENIZER_FOLDER, save_tokenizer
from mage_kit.tokenizers import TOKENIZERS, Tokenizer
from mage_kit.training.context import Run
from mage_kit.training.engine import make_fabric
from mage_kit.training.loop import Loop
from mage_kit.training.tokenizer_stage import TokenizerStage, tokenizer_precision


def tokenizer_fingerprint(recipe: Recipe, dataset: Dataset) -> str:
    """Return what a trained tokenizer depends on: its form, its training, the images and the seed."""
    precision = recipe.training.precision if recipe.training else "auto"
    sections = recipe.fingerprint("tokenizer", "tokenizer_training", "data", "seed")
    return hashlib.sha256((sections + json.dumps(dataset.identity()) + precision).encode()).hexdigest()


def given_tokenizer(recipe: Recipe | ClassifierRecipe) -> Tokenizer | None:
    """Return a tokenizer that needs no training here: nothing to learn, or weights named; None otherwise.

    Where none are named, a pretrained model's own serve.
    """
    tokenizer = recipe.build_tokenizer()
    weights: str | None = recipe.tokenizer.get("weights")
    if weights is None and recipe.pretrained is not None and tokenizer.needs_training:
        weights = recipe.pretrained.weights
        if not Path(weights).is_dir():
            advice = (
                "must be the folder of a trained model: train it first, or name one with --set pretrained.weights=DIR"
            )
            raise RecipeError([f"$.pretrained.weights: '{weights}', {advice}"], recipe.name)
    if tokenizer.needs_training and weights is None:
        return None
    if weights is not None:
        fill_tokenizer(tokenizer, recipe, Path(weights))
    return tokenizer


def trained_tokenizer(run: Run, until: int | None = None) -> Tokenizer:
    """Return a tokenizer trained before with the same fingerprint, or a new one.

    Args:
        run: The run.
        until: Stop training after this step; None for the recipe's.
    """
    fingerprint = processes.on_first(lambda: tokenizer_fingerprint(run.recipe, run.dataset))
    own = run.out / TOKENIZER_FOLDER
    if not processes.on_first(lambda: _find(run.recipe, fingerprint, run.out, run.reporter)):
        tokenizer = _train(run, until)
        settings = run.recipe.tokenizer_training
        cut = until is not None and settings is not None and until < settings.steps
        print_of = None if cut else fingerprint  # one that was cut short is nobody else's
        # A damaged one may lie there.
        processes.on_first(lambda: save_tokenizer(tokenizer, own, overwrite=True, fingerprint=print_of) and None)
        return tokenizer
    tokenizer = run.recipe.build_tokenizer()
    fill_tokenizer(tokenizer, run.recipe, own)
    return tokenizer


def _find(recipe: Recipe, fingerprint: str, out: Path, reporter: Reporter) -> bool:
    """Look for a sound tokenizer of this fingerprint in this run and those beside it; copy it here if elsewhere."""
    own = out / TOKENIZER_FOLDER
    for folder in [own, *sorted(out.resolve().parent.glob(f"*/{TOKENIZER_FOLDER}"))]:
        if _card(folder).get("fingerprint") != fingerprint:
            continue
        try:
            fill_tokenizer(recipe.build_tokenizer(), recipe, folder)
        except MageKitError as error:
            reporter.say(f"tokenizer {folder} is damaged and passed over: {error}")
            continue
        if folder != own:
            reporter.say(f"reusing the tokenizer of {folder.parent} (fingerprint {fingerprint[:12]})")
            with atomic_folder(own) as temporary:
                shutil.copytree(folder, temporary, dirs_exist_ok=True)
        return True
    return False


def _train(run: Run, until: int | None) -> Tokenizer:
    recipe, device = run.recipe, run.device
    settings = recipe.tokenizer_training
    assert settings is not None
    tokenizer = recipe.build_tokenizer()
    run.reporter.say(
        f"tokenizer.weights: null, so the tokenizer is trained first, {settings.steps} steps on these "
        f"{len(run.dataset)} images (name a folder with --set tokenizer.weights=DIR to use one)"
    )
    choice = run.decisions.get("tokenizer_precision", lambda: tokenizer_precision(recipe, tokenizer, device))
    run.reporter.say(f"tokenizer in {choice.value}: {choice.reason}")
    stage = TokenizerStage(recipe, run.dataset, tokenizer, make_fabric(device, choice.value))
    run.reporter.say(f"tokenizer: {stage.spread}")
    Loop(stage, stage.plan(), run.out, recipe.to_json(), run.log, run.broken, run.signals, run.reporter).run(until)
    tokenizer.cpu().finish_training()
    return tokenizer


def fill_tokenizer(tokenizer: Tokenizer, recipe: Recipe | ClassifierRecipe, folder: Path) -> None:
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
