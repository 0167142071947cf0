"""The published linear probe of a run, as a recipe. Paper: supplement, Table 11."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mage_kit.images.transforms import Augment
from mage_kit.recipes.recipe import Recipe

EPOCHS = 90
BATCH = 4096
_WIDE = 1024  # from this width on the largest rate is half
_STEPS = 20  # an epoch, at least
_CARRIED_OUT = frozenset(
    {
        "workers", "keep", "keep_every", "log_every", "checkpoint_every", "validate_every", "skip_limit", "rollbacks",
        "precision", "classes", "validation",
    }
)  # fmt: skip  # how a probe runs, not what it is


@dataclass(frozen=True)
class ProbeImages:
    """What a probe learns from and is tested on.

    Args:
        count: Images to learn from.
        classes: Of them.
        augment: How views are made.
        folders: Of training and of test images; None where they are the run's own.
        levels: Of deep pictures in these folders; None for those of their files' type.
    """

    count: int
    classes: int
    augment: Augment
    folders: tuple[str, str] | None
    levels: int | None = None


def probe_recipe(
    run: Recipe, weights: Path, images: ProbeImages, workers: int = 0, overrides: Sequence[str] = ()
) -> Recipe:
    """Return the published probe of a run: what is not of Table 11 is the run's own.

    Where the images are few, the batch is smaller, so that there are steps enough; the largest rate stays.

    Args:
        run: Recipe of a masked model.
        weights: Folder of its weights.
        images: What it is probed on.
        workers: Processes that load images.
        overrides: `a.b=VALUE` of the result.

    Raises:
        RecipeError: With every problem of the result.
    """
    stated = run.model_dump(mode="json", by_alias=True)
    model, encoder = stated["model"], stated["model"]["encoder"]
    data, validation = _sections(stated["data"] or {}, images)
    return Recipe.parse(
        {
            "name": f"{stated['name']} probe",
            "plugins": stated["plugins"],
            "seed": stated["seed"],
            "tokenizer": {**stated["tokenizer"], "weights": None},
            "data": data,
            "model": {
                "kind": "classifier",
                "classes": images.classes,
                "embedding": model["embedding"],
                "input": model["input"],
                "encoder": {**encoder, **({"dropout": 0.0} if "dropout" in encoder else {})},
                "head": "probe",
            },
            "pretrained": {"weights": str(weights), "freeze": True},
            "training": {**_table_11(encoder, _batch(images.count)), "workers": workers, "validation": validation},
            "kernels": stated["kernels"],
        },
        overrides,
    )


def departures(run: Recipe, ran: Recipe, images: ProbeImages) -> list[str]:
    """Return what of a probe is not as published, in words: everything but how it was carried out counts.

    Args:
        run: Recipe of the masked model.
        ran: The probe's, as it was carried out.
        images: What it was carried out on.
    """
    encoder = run.model_dump(mode="json")["model"]["encoder"]
    plain = probe_recipe(run, Path(), images).changed("training", **_table_11(encoder, BATCH))
    mine, published = (json.loads(recipe.to_json()) for recipe in (ran, plain))
    return [
        line
        for section in ("model", "training")
        for name, value in published[section].items()
        if name not in _CARRIED_OUT
        for line in _differences(name, mine[section][name], value)
    ]


def _table_11(encoder: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The published settings; at another batch the largest rate stays."""
    peak = (0.05 if encoder.get("dim", 0) >= _WIDE else 0.1) * BATCH / 256
    return {
        "kind": "classify", "batch": batch, "epochs": EPOCHS, "warmup_epochs": 10, "optimizer": {"kind": "lars"},
        "base_lr": peak * 256 / batch,
    }  # fmt: skip


def _batch(images: int) -> int:
    """A batch of which an epoch has some twenty: a multiple of 32, so that processes can share it."""
    return min(BATCH, images - images % 2, max(32, images // _STEPS // 32 * 32))


def _sections(data: dict[str, Any], images: ProbeImages) -> tuple[Any, Any]:
    """What the recipe says of its images: folders by name; of a part set aside, the whole that it is of."""
    augment = images.augment.model_dump(mode="json")
    if images.folders is None:
        return {**(data.get("source") or data), "augment": augment}, None
    train, test = (
        {"kind": "image_folder", "path": folder, "augment": augment, "levels": images.levels}
        for folder in images.folders
    )
    return train, None if train == test else test


def _differences(name: str, mine: Any, published: Any) -> list[str]:
    """Values of one setting, or of each of its parts, that are not the published ones, in words."""
    if isinstance(mine, dict) and isinstance(published, dict) and mine.get("kind") == published.get("kind"):
        return [line for part, value in published.items() for line in _differences(f"{name}.{part}", mine[part], value)]
    kinds = [value["kind"] if isinstance(value, dict) and "kind" in value else value for value in (mine, published)]
    return [] if mine == published else [f"{name} {kinds[0]} (published {kinds[1]})"]
