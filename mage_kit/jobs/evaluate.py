"""Evaluations of a run, each with its result in RUN/eval/NAME.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from mage_kit import processes
from mage_kit.classifier_recipe import ClassifierRecipe, load_recipe
from mage_kit.errors import MageKitError
from mage_kit.evaluation.plots import plot_series
from mage_kit.evaluation.splits import folder_split
from mage_kit.evaluation.subject import Subject
from mage_kit.files import check_writable, read_json, write_json
from mage_kit.jobs.folders import clear_run
from mage_kit.loading import load_classifier
from mage_kit.progress import Reporter
from mage_kit.storage import RECIPE_FILE, best_device, require_folder, save
from mage_kit.training.classifier_run import train_classifier
from mage_kit.training.validation import measure_accuracy
from mage_kit.transforms import Augment
from mage_kit.version import __version__

EVAL = "eval"
_WIDE = 1024  # from this width on the published probe's rate is half
_BATCH = 4096  # of the published probe
_STEPS = 20  # an epoch, at least


def result_file(run: Path, name: str, overwrite: bool) -> Path:
    """Return the place of a result, before anything is measured.

    Raises:
        MageKitError: If it is there already and may not be replaced, or cannot be written.
    """

    def check() -> Path:
        require_folder(run)
        target = run / EVAL / f"{name}.json"
        if target.exists() and not overwrite:
            raise MageKitError(f"out: '{target}', exists; give --overwrite to measure again")
        if run.is_dir():
            check_writable(target)
        return target

    return processes.on_first(check)


def keep(target: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write a result; the first process alone."""
    if processes.is_first():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, result)
    return result


def plot(target: Path, result: dict[str, Any], kind: Literal["blocks", "shots"]) -> Path | None:
    """Draw a result's curves beside its file; None in all processes but the first."""
    if not processes.is_first():
        return None
    if kind == "blocks":
        series = {"linear probe": [(int(name), row["top1"], 0.0) for name, row in result["rows"].items()]}
        labels = ("block", "top-1")
    else:
        series = {
            name: [(each["shots"], each["top1"], each["std"]) for each in row["by_shots"].values()]
            for name, row in result["rows"].items()
        }
        labels = ("labelled images of each class", "top-1")
    file = target.with_suffix(".png")
    plot_series(series, target.stem, labels, file)
    return file


def published_probe(
    subject: Subject,
    overrides: Sequence[str] = (),
    *,
    baseline: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train the linear probe as published: Table 11 of the supplement, on the run's frozen encoder.

    Args:
        subject: What is evaluated.
        overrides: `a.b=VALUE` of the classifier's recipe, as training.epochs=10.
        baseline: Probe the untrained encoder too.
        resume: Go on with a probe that was interrupted.
        overwrite: Start over where one was begun.

    Returns:
        The result, ready for JSON.
    """
    rows = {"features": _probe(subject, subject.run, "probe", overrides, resume, overwrite)}
    if baseline:
        place = subject.run / EVAL / "untrained"
        processes.on_first(lambda: None if (place / RECIPE_FILE).is_file() else _save_untrained(subject, place))
        rows["untrained encoder"] = _probe(subject, place, "probe-untrained", overrides, resume, overwrite)
    recipe = load_recipe(subject.run / EVAL / "probe" / RECIPE_FILE)
    assert isinstance(recipe, ClassifierRecipe) and recipe.training is not None
    training = recipe.training.model_dump(mode="json")
    published = {"epochs": 90.0, "warmup_epochs": 10.0, "batch": 4096, "optimizer": "lars", "weight_decay": 0.0}
    changed = [
        f"{name} {training[name]} (published {value})" for name, value in published.items() if training[name] != value
    ]
    protocol = "linear probe as published (Table 11 of the supplement): LARS, random resized crops, largest rate"
    return {
        **subject.stated(),
        "protocol": protocol + (f"; but {', '.join(changed)}" if changed else ""),
        "as_published": not changed,
        "recipe": training,
        "rows": rows,
    }


def probe_recipe(subject: Subject, weights: Path, overrides: Sequence[str] = ()) -> ClassifierRecipe:
    """Return the published probe of a run as a recipe: what is not of Table 11 is the run's own.

    Where the images are few, the batch is smaller, so that there are steps enough; the largest rate stays.
    """
    run = subject.recipe.model_dump(mode="json", by_alias=True)
    images = len(subject.split.train)
    batch = min(_BATCH, _few(images // _STEPS, processes.world()))
    peak = (0.05 if run["model"]["encoder"].get("dim", 0) >= _WIDE else 0.1) * _BATCH / 256
    data = run["data"] or {"kind": "image_folder", "path": None}
    augment = {**data.get("augment", {}), "views": 1, "filter": "bicubic"}
    encoder = run["model"]["encoder"]
    return ClassifierRecipe.parse(
        {
            "name": f"{subject.recipe.name} probe",
            "plugins": run["plugins"],
            "seed": run["seed"],
            "tokenizer": {**run["tokenizer"], "weights": None},
            "data": {**data, "augment": augment},
            "validation": {**data, "augment": augment},
            "classifier": {
                "classes": subject.split.classes,
                "embedding": run["model"]["embedding"],
                "encoder": {**encoder, **({"dropout": 0.0} if "dropout" in encoder else {})},
                "head": "probe",
            },
            "pretrained": {"weights": str(weights), "freeze": True},
            "training": {
                "batch": batch, "epochs": 90, "warmup_epochs": 10, "optimizer": "lars", "weight_decay": 0.0,
                "base_lr": peak * 256 / batch,
            },
            "kernels": run["kernels"],
        },
        overrides,
    )  # fmt: skip


def _few(wanted: int, world: int) -> int:
    """Return a batch that processes can share, of at least 16 images each."""
    return max(16 * world, wanted - wanted % (2 * world))


def _probe(
    subject: Subject, weights: Path, name: str, overrides: Sequence[str], resume: bool, overwrite: bool
) -> dict[str, Any]:
    out, recipe = subject.run / EVAL / name, probe_recipe(subject, weights, overrides)
    images = (subject.split.train, subject.split.test)
    resume = resume and processes.on_first((out / RECIPE_FILE).is_file)
    if not resume:
        processes.on_first(lambda: clear_run(out, overwrite))
    train_classifier(recipe, out, resume=resume, reporter=subject.reporter, images=images)
    measured: dict[str, Any] = read_json(out / EVAL / "accuracy.json")["raw"]
    return measured


def _save_untrained(subject: Subject, place: Path) -> None:
    untrained = subject.recipe.build_model(subject.model.tokenizer)
    save(untrained, place, subject.recipe)


def accuracy(
    run: Path,
    data: Path | None,
    *,
    weights: Literal["raw", "ema"] = "raw",
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure a classifier again: on its recipe's validation images, or on others.

    Args:
        run: Folder of a classifier.
        data: Folder with val/, or with class folders, all of which are then classified; None for the recipe's.
        weights: Raw, or the running mean.
        reporter: Where progress goes.

    Raises:
        MageKitError: If there is no classifier, or there are no images.
    """
    require_folder(run)
    model = (
        load_classifier(run, best_device(), weights="ema") if weights == "ema" else load_classifier(run, best_device())
    )
    recipe = load_recipe(run / RECIPE_FILE)
    assert isinstance(recipe, ClassifierRecipe)
    if data is None:
        images = recipe.build_validation()
        told = f"the recipe's validation images ({recipe.validation.kind})" if recipe.validation else ""
        if images is None:
            raise MageKitError("data: the recipe names no validation images; name a folder with --data")
    else:
        augment = getattr(recipe.validation or recipe.data, "augment", None) or Augment(filter="bicubic")
        size, channels = model.tokenizer.image_size, model.tokenizer.channels
        whole = not (data / "train").is_dir()
        split = folder_split(data, size, channels, augment)
        images = getattr(split.test, "source", split.test) if whole else split.test
        told = f"{data}, all images" if whole else split.told
        if len(images.classes) != model.classes:
            raise MageKitError(f"data: '{data}', has {len(images.classes)} classes, the classifier {model.classes}")
    found = measure_accuracy(model, images, reporter=reporter)
    versions = {"mage_kit": __version__, "torch": torch.__version__}
    return {
        "run": recipe.name,
        "weights": weights,
        "data": told,
        "rows": {"classifier": found.as_dict()},
        "versions": versions,
    }
