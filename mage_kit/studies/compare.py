"""Variants of one recipe side by side: train each, measure each, one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import write_json
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.features import extract_features, labels_of
from mage_kit.evaluation.folds import linear_probe
from mage_kit.evaluation.judgement import SmallReference, make_small_reference
from mage_kit.recipes.answers import evaluation_of
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load
from mage_kit.studies.demo import loss_by_ratio, measure_samples
from mage_kit.training.check import check
from mage_kit.training.train import train


def variants(vary: str) -> tuple[str, list[str]]:
    """Split `path=A,B,C` or `path=[JSON, ...]` into the path and one value a variant.

    Raises:
        MageKitError: If it names no path or fewer than two values.
    """
    path, sign, text = vary.partition("=")
    try:
        parsed = json.loads(text)
        values = [json.dumps(value) for value in parsed] if isinstance(parsed, list) else [text]
    except json.JSONDecodeError:
        values = [value.strip() for value in text.split(",")]
    if not sign or not path or len(values) < 2:
        raise MageKitError(f"--vary {vary}: must have the form path=A,B or path=[JSON, JSON] with at least two values")
    return path, values


def compare(source: Path, overrides: Sequence[str], vary: str, out: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """Train and measure each variant; the tokenizer is trained once, its fingerprint being the same.

    Args:
        source: Recipe file.
        overrides: Changes common to all.
        vary: The change that differs; see `variants`.
        out: Folder of the runs; finished ones are kept and measured again.
        reporter: Where progress goes.

    Returns:
        One row a variant.
    """
    path, values = variants(vary)
    recipes = [Recipe.load(source, [*overrides, f"{path}={value}"]) for value in values]
    for recipe in recipes:
        check(recipe)
        labels_of(recipe.build_dataset())  # the table needs them: say so before any training
    references: dict[str, SmallReference] = {}
    rows = []
    for number, (value, recipe) in enumerate(zip(values, recipes, strict=True)):
        folder = out / f"{number}-{_slug(value)}"
        reporter.say(f"variant {number + 1} of {len(values)}: {path} = {value}")
        train(recipe, folder, resume=folder.exists())
        # The real images follow from data and tokenizer: variants of either are judged against their own.
        key = recipe.fingerprint("data", "tokenizer", "seed")
        if key not in references:
            references[key] = make_small_reference(recipe, reporter)
        reference = references[key]
        model = load(folder, best_device())
        _, judged = measure_samples(model, reference, recipe, reporter, "generating")
        features = extract_features(model, recipe.build_dataset(), reporter=reporter)
        settings = evaluation_of(recipe)
        probe = linear_probe(features, folds=settings.folds, strengths=settings.strengths, seed=recipe.seed)
        rows.append(
            {
                "variant": value,
                "linear_probe_top1": probe.top1,
                "frechet_generated": judged["frechet"],
                "frechet_real": reference.frechet_real(),
                "loss_by_ratio": loss_by_ratio(folder),
            }
        )
        write_json(out / "compare.json", {"path": path, "rows": rows})
    return rows


def _slug(value: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in value).strip("-")[:40]
