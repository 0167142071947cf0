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
from mage_kit.evaluation.splits import published_views
from mage_kit.evaluation.subject import Subject
from mage_kit.models.mage import Mage
from mage_kit.recipes import Recipe, untrained_like
from mage_kit.store.folders import RECIPE_FILE, save
from mage_kit.store.run_folders import clear_run
from mage_kit.training.train import train

EVAL = "eval"
EPOCHS = 90  # of the published probe
_WIDE = 1024  # from this width on the published probe's rate is half
_BATCH = 4096  # of the published probe
_STEPS = 20  # an epoch, at least
_CARRIED_OUT = frozenset(
    {
        "workers",
        "keep",
        "log_every",
        "checkpoint_every",
        "validate_every",
        "skip_limit",
        "rollbacks",
        "precision",
        "classes",
        "validation",
    }
)  # how a probe runs, not what it is


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
    seen = subject.model.input
    if seen not in subject.model.tokenizer.streams:
        rule = "which a classifier cannot; mage-kit eval probe-fast takes its features as they are"
        raise MageKitError(f"$.model.input: '{seen}', the encoder sees another tokenizer's stream, {rule}")
    named = ("data", "training.validation", "pretrained")
    taken = [each for each in overrides if each.strip().startswith(named)]
    if taken:
        raise MageKitError(f"--set {taken[0]}: the probe's images and weights are named by --data and --weights")
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
    plain = probe_recipe(subject, Path(), ()).changed("training", **_published(subject))
    mine, published = (json.loads(recipe.to_json()) for recipe in (ran, plain))
    found = []
    for section in ("model", "training"):
        for name, value in published[section].items():
            if name not in _CARRIED_OUT:
                found += _differences(name, mine[section][name], value)
    if subject.split.train.augment != published_views(None, subject.model.tokenizer.image_size):
        found.append("crops of the run's own (published: 0.2 to 1 of the area, flipped, tests on the centre)")
    return found


def _differences(name: str, mine: Any, published: Any) -> list[str]:
    """Values of one setting, or of each of its parts, that are not the published ones, in words."""
    if isinstance(mine, dict) and isinstance(published, dict) and mine.get("kind") == published.get("kind"):
        return [line for part, value in published.items() for line in _differences(f"{name}.{part}", mine[part], value)]
    kinds = [value["kind"] if isinstance(value, dict) and "kind" in value else value for value in (mine, published)]
    return [] if mine == published else [f"{name} {kinds[0]} (published {kinds[1]})"]


def _published(subject: Subject, batch: int = 4096) -> dict[str, Any]:
    """Table 11; at another batch the largest rate stays."""
    wide = subject.recipe.model_dump(mode="json")["model"]["encoder"].get("dim", 0) >= _WIDE
    peak = (0.05 if wide else 0.1) * _BATCH / 256
    return {
        "kind": "classify", "batch": batch, "epochs": EPOCHS, "warmup_epochs": 10, "optimizer": {"kind": "lars"},
        "base_lr": peak * 256 / batch,
    }  # fmt: skip


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
    """Return the published probe of a run as a recipe: what is not of Table 11 is the run's own.

    Where the images are few, the batch is smaller, so that there are steps enough; the largest rate stays.
    """
    run = subject.recipe.model_dump(mode="json", by_alias=True)
    images = len(subject.split.train)
    batch = min(_BATCH, _few(images))
    augment = subject.split.train.augment.model_dump(mode="json")
    data, validation = _sections(subject, run["data"] or {}, augment)
    encoder = run["model"]["encoder"]
    return Recipe.parse(
        {
            "name": f"{subject.recipe.name} probe",
            "plugins": run["plugins"],
            "seed": run["seed"],
            "tokenizer": {**run["tokenizer"], "weights": None},
            "data": data,
            "model": {
                "kind": "classifier",
                "classes": subject.split.classes,
                "embedding": run["model"]["embedding"],
                "input": run["model"]["input"],
                "encoder": {**encoder, **({"dropout": 0.0} if "dropout" in encoder else {})},
                "head": "probe",
            },
            "pretrained": {"weights": str(weights), "freeze": True},
            "training": {**_published(subject, batch), "workers": _workers(), "validation": validation},
            "kernels": run["kernels"],
        },
        overrides,
    )  # fmt: skip


def _sections(subject: Subject, data: dict[str, Any], augment: dict[str, Any]) -> tuple[Any, Any]:
    """Return what the recipe says of its images: folders by name; of a part set aside, the whole that it is of."""
    parts = [getattr(part, "source", part) for part in (subject.split.train, subject.split.test)]
    names = [getattr(part, "path", None) for part in parts]
    if any(name is None for name in names):
        data = data.get("source") or data
        return {**data, "augment": augment}, None
    sections = [{"kind": "image_folder", "path": str(name), "augment": augment} for name in names]
    return sections[0], None if names[0] == names[1] else sections[1]


def _few(images: int) -> int:
    """Return a batch of which an epoch has some twenty: a multiple of 32, so that processes can share it."""
    return min(images - images % 2, max(32, images // _STEPS // 32 * 32))


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
