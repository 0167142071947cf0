"""What a representation is worth, measured on digits that no model has seen.

python -m benchmarks.representation [--out runs/representation] [--json FILE]

Trains recipes/digits.json on 1,597 digits without their labels at three seeds (a run that is there already is taken),
some six minutes each on two cores, then measures each on the 200 digits held out, in some twenty-five more: the linear
probe as published and the fast one, after each block, k-NN, few-shot curves, fine-tuning and training from scratch,
each beside raw pixels and the untrained encoder, mean and deviation over the seeds; and fine-tuning against training
from scratch on ten labelled images of each class over five draws. What is found is printed, and written beside plots
and the first run's report.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mage_kernels import keep_freed_memory
from rich.console import Console
from rich.table import Table

import mage_kit as mk
from mage_kit.base.files import read_json, write_json
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.evaluate import write_result
from mage_kit.evaluation.feature_cache import FeatureCache
from mage_kit.evaluation.measures import (
    BlockProbes,
    Curves,
    FastProbe,
    FeatureMeasure,
    FewShot,
    LinearProbe,
    Neighbours,
    Outcome,
)
from mage_kit.evaluation.plots import plot_series
from mage_kit.evaluation.published_probe import published_probe
from mage_kit.evaluation.splits import Split, published_views
from mage_kit.evaluation.subject import FEATURES, Subject
from mage_kit.report import write_report
from mage_kit.store.folders import MODEL_FILE, RECIPE_FILE, best_device, weights_digest

RECIPES = Path(__file__).parent.parent / "recipes"
SEEDS = (0, 1, 2)
NAMES = {"finetune": "fine-tuned", "scratch": "from scratch"}
FEW, FEW_SEEDS = 10, (0, 1, 2, 3, 4)
FEW_CHANGES = ("training.batch=50", "training.epochs=150", "training.warmup_epochs=10", "training.log_every=100")
TOLD = "1,597 digits to learn from, 200 held out, which no part of the model has seen"


def pretrained(out: Path, seed: int) -> Path:
    """Train a model, or take it where it is complete, or go on with it."""
    place = out / f"pretrained-{seed}"
    if not (place / MODEL_FILE).is_file():
        recipe = mk.Recipe.load(RECIPES / "digits.json", ["data.part=training", f"seed={seed}"])
        mk.train(recipe, place, resume=(place / RECIPE_FILE).is_file())
    return place


def subject_of(run: Path, reporter: Reporter) -> Subject:
    """Return the run with its own split: the digits that it was trained on, and the others."""
    model, recipe = mk.load(run, best_device()), mk.Recipe.load(run / RECIPE_FILE)
    assert recipe.data is not None
    data = recipe.data.model_dump(mode="json")
    parts = [recipe.extended(data={**data, "part": part}).build_dataset() for part in ("training", "held_out")]
    for part in parts:
        part.augment = published_views(part.augment, part.image_size)
    cache = FeatureCache(run / FEATURES / "study", reporter=reporter)
    split = Split(parts[0], parts[1], TOLD)
    return Subject(run, recipe, model, split, cache, "raw", weights_digest(model), "float32", reporter)


def classifier(kind: str, run: Path, out: Path, seed: int, changes: Sequence[str] = ()) -> float:
    """Train a classifier, or take a complete one; return its accuracy on the digits held out."""
    start = f'pretrained={{"weights": "{run}", "freeze": false}}' if kind == "finetune" else f"tokenizer.weights={run}"
    settings = [start, f"seed={seed}", "training.validate_every=null", *changes]
    recipe = mk.Recipe.load(RECIPES / f"{kind}_digits.json", settings)
    place = out / f"{kind}-{seed}"
    if not (place / MODEL_FILE).is_file():
        mk.train(recipe, place, resume=(place / RECIPE_FILE).is_file())
    measured: dict[str, Any] = read_json(place / "eval" / "accuracy.json")["rows"]
    return float(measured["ema" if "ema" in measured else "raw"]["top1"])


def spread(found: Sequence[float]) -> dict[str, Any]:
    """Return mean and sample deviation of some accuracies, ready for JSON."""
    deviation = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return {"top1": float(np.mean(found)), "std": deviation, "seeds": len(found), "each": list(found)}


def published(subject: Subject, seed: int) -> dict[str, Any]:
    """Return the published probe of features and untrained encoder; one that was made is taken."""
    name = subject.run / "eval" / "probe.json"
    if not name.is_file():
        overrides = (f"seed={seed}",)
        result = published_probe(subject, overrides, baseline=True, overwrite=True)
        write_result(LinearProbe(overrides=overrides, baseline=True), Outcome(result), name)
    return read_json(name)


def of_one(out: Path, seed: int, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Measure everything of one pre-training; return rows by measure."""
    run = pretrained(out, seed)
    subject = subject_of(run, reporter)

    def result(measure: FeatureMeasure, name: str) -> dict[str, Any]:
        return write_result(measure, measure.measure(subject), run / "eval" / f"{name}.json")

    made: dict[str, dict[str, Any]] = {
        "linear probe, published": published(subject, seed),
        "linear probe, fast": result(FastProbe(source=("mean", "class", "mean+norm")), "probe-fast"),
        "after each block": result(BlockProbes(), "blocks"),
        "k-NN": result(Neighbours(), "knn"),
        "few-shot": result(FewShot(), "fewshot"),
    }
    rows = {name: held["rows"] for name, held in made.items()}
    rows["all labels"] = {NAMES[kind]: {"top1": classifier(kind, run, out, seed)} for kind in ("finetune", "scratch")}
    return rows


def over_seeds(each: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return mean and deviation over the seeds of every figure, in the form that it has for one of them."""
    joined: dict[str, dict[str, Any]] = {}
    for name, rows in each[0].items():
        joined[name] = {}
        for row, value in rows.items():
            found = [one[name][row] for one in each]
            joined[name][row] = spread([float(one["top1"]) for one in found])
            if "by_shots" in value:
                joined[name][row]["by_shots"] = {
                    count: {**spread([one["by_shots"][count]["top1"] for one in found]), "shots": int(count)}
                    for count in value["by_shots"]
                }
    return joined


def measure(out: Path, reporter: Reporter) -> dict[str, Any]:
    """Measure everything; return it ready for JSON."""
    found: dict[str, Any] = {"data": TOLD, "seeds": list(SEEDS)}
    found |= over_seeds([of_one(out, seed, reporter) for seed in SEEDS])
    joined: tuple[tuple[type[FeatureMeasure], str, str], ...] = (
        (BlockProbes, "blocks", "after each block"), (FewShot, "shots", "few-shot"),
    )  # fmt: skip
    for measure_, file, name in joined:
        curves = measure_.curves({"rows": found[name]})
        assert isinstance(curves, Curves)
        plot_series(dict(curves.points), curves.title, (curves.across, "top-1"), out / f"{file}.png")
    few = [f"training.images_per_class={FEW}", *FEW_CHANGES]
    run = pretrained(out, SEEDS[0])
    found["few labels"] = {
        NAMES[kind]: spread([classifier(kind, run, out / "few", seed, few) for seed in FEW_SEEDS])
        for kind in ("finetune", "scratch")
    }
    pairs = zip(*(found["few labels"][name]["each"] for name in NAMES.values()), strict=True)
    found["few labels"]["difference"] = spread([one - other for one, other in pairs])
    report = write_report(run, overwrite=True, reporter=reporter)
    reporter.say(f"written: {report}")
    return found


def verdict(found: dict[str, Any]) -> str:
    """Say plainly which of fine-tuning and training from scratch wins with few labels."""
    difference = found["few labels"]["difference"]
    wins = sum(value > 0 for value in difference["each"])
    told = f"{difference['top1']:+.4f} ± {difference['std']:.4f}, better in {wins} of {difference['seeds']} draws"
    word = "wins" if difference["top1"] > 0 and wins > difference["seeds"] / 2 else "DOES NOT WIN"
    return f"with {FEW} labelled images a class fine-tuning {word} against training from scratch: {told}"


def show(found: dict[str, Any], console: Console) -> None:
    """Print everything."""
    title = f"Digits: {found['data']}; mean and deviation over {len(SEEDS)} pre-trainings, few labels over draws"
    table = Table("measure", "of", "top-1", "deviation", title=title)
    for measure_, rows in found.items():
        if not isinstance(rows, dict):
            continue
        for name, row in rows.items():
            if "by_shots" in row:
                for count, each in row["by_shots"].items():
                    table.add_row(f"few-shot, {count} a class", name, f"{each['top1']:.4f}", f"{each['std']:.4f}")
            else:
                table.add_row(measure_, str(name), f"{row['top1']:.4f}", f"{row['std']:.4f}")
    console.print(table)
    console.print(verdict(found), markup=False)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/representation"), help="runs, results, plots")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures there")
    given = parser.parse_args()
    if given.json is not None and given.json.exists():
        parser.error(f"--json {given.json}: exists; choose another")
    keep_freed_memory()
    given.out.mkdir(parents=True, exist_ok=True)
    found = measure(given.out, Reporter())
    show(found, Console())
    found["verdict"] = verdict(found)
    write_json(given.out / "representation.json", found)
    if given.json is not None:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
