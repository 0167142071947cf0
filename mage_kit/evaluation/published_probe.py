"""The linear probe as published: a classifier of its own, trained on a run's frozen encoder (supplement, Table 11)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.datasets import ImageFolder
from mage_kit.evaluation.splits import published_views
from mage_kit.evaluation.subject import Subject
from mage_kit.models.mage import Mage
from mage_kit.recipes import Recipe, probe, untrained_like
from mage_kit.recipes.probe import ProbeImages
from mage_kit.store.folders import RECIPE_FILE, save
from mage_kit.store.run_folders import EVAL, clear_run
from mage_kit.training.train import train


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
    stream = subject.model.input
    if stream not in subject.model.tokenizer.streams:
        rule = "which a classifier cannot; mage-kit eval probe-fast takes its features as they are"
        raise MageKitError(f"$.model.input: '{stream}', the encoder sees another tokenizer's stream, {rule}")
    named = ("data", "training.validation", "pretrained")
    refused = [each for each in overrides if each.strip().startswith(named)]
    if refused:
        raise MageKitError(f"--set {refused[0]}: the probe's images and weights are named by --data and --weights")
    rows = {"features": _probe(subject, _weights(subject), "probe", overrides, resume, overwrite)}
    if baseline:
        place = subject.run / EVAL / "untrained"
        processes.on_first(lambda: _save(untrained_like(subject.recipe, subject.model), subject, place))
        rows["untrained encoder"] = _probe(subject, place, "probe-untrained", overrides, resume, overwrite)
    ran = Recipe.load(subject.run / EVAL / "probe" / RECIPE_FILE)
    changed = departures(subject, ran)
    precision = read_json(subject.run / EVAL / "probe" / "decisions.json")["classifier_precision"]["value"]
    protocol = "linear probe: LARS, random resized crops (Table 11 of the supplement)"
    return {
        **subject.stated(),
        "precision": precision,
        "protocol": f"NOT as published: {', '.join(changed)}; else {protocol}"
        if changed
        else f"as published: {protocol}",
        "as_published": not changed,
        "recipe": json.loads(ran.to_json()),
        "rows": rows,
    }


def departures(subject: Subject, ran: Recipe) -> list[str]:
    """Return what of a probe is not as published, in words: everything but how it was carried out counts."""
    lines = probe.departures(subject.recipe, ran, _images(subject))
    if subject.split.train.augment != published_views(None, subject.model.tokenizer.image_size):
        lines.append("crops of the run's own (published: 0.2 to 1 of the area, flipped, tests on the centre)")
    return lines


def _weights(subject: Subject) -> Path:
    """Return the folder that the probe starts from: the run's, or one with its mean weights."""
    if subject.weights == "raw":
        return subject.run
    place = subject.run / EVAL / "mean-weights"
    processes.on_first(lambda: _save(subject.model, subject, place))
    return place


def _save(model: Mage, subject: Subject, place: Path) -> None:
    save(model, place, subject.recipe, overwrite=True)


def probe_recipe(subject: Subject, weights: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the published probe of a run as a recipe; see `mage_kit.recipes.probe`."""
    return probe.probe_recipe(subject.recipe, weights, _images(subject), _workers(), overrides)


def _images(subject: Subject) -> ProbeImages:
    """What a probe's recipe says of its images: folders by name; of a part set aside, the whole that it is of."""
    split = subject.split
    train, test = (getattr(part, "source", part) for part in (split.train, split.test))
    folders = None
    if isinstance(train, ImageFolder) and isinstance(test, ImageFolder):
        folders = (str(train.path), str(test.path))
    return ProbeImages(len(split.train), split.classes, split.train.augment, folders, split.train.levels)


def _workers() -> int:
    """Loading processes: a GPU would wait for one."""
    return 8 if torch.cuda.is_available() else 0


def _clear(out: Path, overwrite: bool) -> None:
    if (out / RECIPE_FILE).is_file() and not overwrite:
        raise MageKitError(f"'{out}': holds a probe that was begun; --resume goes on with it, --overwrite starts over")
    clear_run(out, overwrite)


def _probe(
    subject: Subject, weights: Path, name: str, overrides: Sequence[str], resume: bool, overwrite: bool
) -> dict[str, Any]:
    out, recipe = subject.run / EVAL / name, probe_recipe(subject, weights, overrides)
    images = (subject.split.train, subject.split.test)
    resume = resume and processes.on_first((out / RECIPE_FILE).is_file)
    if not resume:
        processes.on_first(lambda: _clear(out, overwrite))
    train(recipe, out, resume=resume, reporter=subject.reporter, images=images)
    measured: dict[str, Any] = read_json(out / EVAL / "accuracy.json")["rows"]["raw"]
    return measured
