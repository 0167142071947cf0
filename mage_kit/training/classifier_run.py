"""A classifier's run: recipe in, run folder out.

Folder: recipe.json, data.json, decisions.json, metrics.jsonl, broken.json, checkpoints/classifier/step-*, at the end
model.safetensors, with a running mean of the weights ema.safetensors, with validation data eval/accuracy.json.
"""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from pathlib import Path

from torch import Tensor

from mage_kit import processes
from mage_kit.classifier import MageClassifier
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.datasets import Dataset, TokenCache
from mage_kit.datasets.chosen import few_of_each
from mage_kit.errors import RecipeError
from mage_kit.files import locked, write_json, write_tensors
from mage_kit.places import at
from mage_kit.progress import Reporter
from mage_kit.storage import EMA_FILE, MODEL_FILE, best_device, describe_tokenizer, load_state, state_of
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.block_wishes import set_blocks
from mage_kit.training.broken import BrokenImages
from mage_kit.training.checkpoints import mean_state
from mage_kit.training.classifier_stage import ClassifierStage, classifier_precision
from mage_kit.training.engine import make_fabric, spread
from mage_kit.training.first_stage import given_tokenizer
from mage_kit.training.folder import held_by_first, open_folder
from mage_kit.training.kernels import check_kernels, part_attention
from mage_kit.training.loop import Loop
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.model_stage import tokenization_precision
from mage_kit.training.pretrained import fill_encoder, find_encoder
from mage_kit.training.probe import Decisions
from mage_kit.training.signals import StopSignals
from mage_kit.training.validation import Validation, measure_accuracy

Images = tuple[Dataset, Dataset | None]
"""What is trained on, and what accuracy is measured on."""

ACCURACY_FILE = Path("eval") / "accuracy.json"


def train_classifier(
    recipe: ClassifierRecipe,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    until: int | None = None,
    images: Images | None = None,
) -> Path:
    """Train a classifier as the recipe says, with all processes that torchrun started.

    Args:
        recipe: A recipe with data and training.
        out: The run folder; must be new or empty unless `resume`.
        resume: Go on from the newest checkpoint; the recipe must be the one of the run.
        reporter: Where progress goes.
        until: Stop after this step, as if it were the last; None for the recipe's.
        images: To train and to validate on, instead of those that the recipe names.

    Returns:
        The run folder, with a classifier that `mage_kit.load_classifier` reads.

    Raises:
        MageKitError: If the folder holds something else, the data cannot be read, or training goes wrong.
        TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
    """
    device = best_device()
    processes.start(device)
    reporter = (reporter or Reporter()) if processes.is_first() else Reporter.silent()
    dataset, validation, tokenizer = _prepare(recipe, out, resume, images)
    hold = locked(out, "out") if processes.is_first() else contextlib.nullcontext()
    with held_by_first(hold), StopSignals() as signals, contextlib.closing(MetricsLog(out)) as log:
        if processes.on_first((out / MODEL_FILE).is_file):
            reporter.say(f"{out} is complete; nothing to do")
            return out
        broken, decisions = BrokenImages(dataset, out, reporter), Decisions(out)
        model = recipe.build_model(tokenizer)
        fill_encoder(model, recipe)
        precision, tokens = _decide(recipe, dataset, model, decisions, reporter)

        assert recipe.training is not None
        looks = None if validation is None else Validation(validation, log, reporter)
        fabric = make_fabric(device, precision)
        stage = ClassifierStage(recipe, dataset, model, fabric, tokens, looks)
        set_blocks(recipe.kernels, model, reporter)
        reporter.say(f"classifier: {stage.spread}; learning rate {stage.peak_lr:g}; {len(dataset)} images")
        plan = stage.plan()
        Loop(stage, plan, out, recipe.to_json(), log, broken, signals, reporter).run(until)
        if until is None or until >= plan.steps:
            _finish(stage, looks, out, reporter)
    return out


def _prepare(
    recipe: ClassifierRecipe, out: Path, resume: bool, images: Images | None
) -> tuple[Dataset, Dataset | None, Tokenizer]:
    """Open data, tokenizer and folder; the first process goes ahead, so that its error is the only one."""

    def ahead() -> tuple[Dataset, Dataset | None, Tokenizer]:
        made = _open_parts(recipe, images)
        if not processes.is_first():
            return made
        free = {"validate_every"} if recipe.classifier.head == "probe" else {"validate_every", "micro_batch"}
        open_folder(recipe, made[0], out, resume, frozenset(free))  # batch norm counts what is computed at once
        return made

    return processes.first_ahead(ahead)


def _open_parts(recipe: ClassifierRecipe, given: Images | None) -> tuple[Dataset, Dataset | None, Tokenizer]:
    model = recipe.check()
    training = recipe.training
    if training is None:
        raise RecipeError(["$.training: missing, training needs it"], recipe.name)
    check_kernels(recipe, model, best_device())
    dataset, validation = given or (recipe.build_dataset(), None)
    validation = validation if given else recipe.build_validation(dataset.classes)
    for name, images in (("data", dataset), ("validation", validation)):
        if images is not None:
            try:
                images.labels()
            except ValueError as error:
                raise RecipeError([f"$.{name}: {error}"], recipe.name) from None
    if training.images_per_class is not None:
        dataset = few_of_each(dataset, training.images_per_class, recipe.seed)
    if training.batch > len(dataset):
        found = f"$.training.batch: {training.batch}, must be at most the number of images ({len(dataset)})"
        raise RecipeError([found], recipe.name)
    plan = spread("training", training.batch, training.micro_batch, recipe.name)
    if (training.mixup or training.cutmix) and plan.micro % 2:
        found = f"$.training.batch: leaves {plan.micro} images at once in a process, must be an even number to be mixed"
        raise RecipeError([found], recipe.name)
    tokenizer = given_tokenizer(recipe)
    assert tokenizer is not None  # told by check
    find_encoder(model, tokenizer, recipe)
    if isinstance(dataset, TokenCache):
        with at("$.data", recipe.data):
            dataset.check_tokenizer(describe_tokenizer(tokenizer))
    return dataset, validation, tokenizer


def _decide(
    recipe: ClassifierRecipe, dataset: Dataset, model: MageClassifier, decisions: Decisions, reporter: Reporter
) -> tuple[str, str]:
    """Measure what this machine does faster; return the precisions of classifier and tokenizer."""
    device = best_device()
    precision = decisions.get("precision", lambda: classifier_precision(recipe, model, device))
    tokens = decisions.get("tokenization", lambda: tokenization_precision(model, dataset, device, precision.value))
    reporter.say(f"classifier in {precision.value}: {precision.reason}")
    reporter.say(f"tokenizing in {tokens.value}: {tokens.reason}")
    decide = partial(part_attention, recipe, model, model.encoder, device, precision.value)
    form = decisions.get("attention_encoder", decide)
    reporter.say(f"attention by {form.value}: {form.reason}")
    asked = recipe.kernels.attention != "auto" or recipe.kernels.backend == "reference"
    model.set_attention(form.value, None if asked else "sdpa")  # type: ignore[arg-type]  # of choose_attention
    return precision.value, tokens.value


def _finish(stage: ClassifierStage, validation: Validation | None, out: Path, reporter: Reporter) -> None:
    """Write the weights in full and their accuracy; the model's file last, since it says that the run is complete."""
    means = None if stage.kept.ema is None else mean_state(stage.kept)
    if means is not None:
        processes.on_first(lambda: write_tensors(out / EMA_FILE, means))
    state = state_of(stage.model)
    if validation is not None:
        try:
            _measure(stage, validation, means, out, reporter)
        except Exception as error:  # images that went away, no memory: nothing must cost a trained classifier
            reporter.say(f"accuracy not measured: {error}; mage-kit eval accuracy {out} measures it later")
    processes.on_first(lambda: write_tensors(out / MODEL_FILE, state))
    reporter.say(f"classifier written to {out}")


def _measure(
    stage: ClassifierStage, validation: Validation, means: dict[str, Tensor] | None, out: Path, reporter: Reporter
) -> None:
    result = {"raw": validation.after(stage.model, stage.plan().steps).as_dict()}
    if stage.kept.ema is not None:
        mean_model = copy.deepcopy(stage.model)
        load_state(mean_model, processes.on_first(lambda: means or {}), "running mean of the weights")
        result["ema"] = measure_accuracy(mean_model, validation.images, reporter=reporter).as_dict()
    processes.on_first(lambda: _write(out / ACCURACY_FILE, result))
    for name, value in result.items():
        reporter.say(f"{name} weights: top-1 {value['top1']:.4f} on {value['images']} images")


def _write(file: Path, result: dict[str, dict[str, float]]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_json(file, result)
