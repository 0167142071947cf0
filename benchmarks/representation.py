"""What a representation is worth, measured on digits that no model has seen.

python -m benchmarks.representation [--out runs/representation] [--json FILE]

Trains recipes/digits.json on 1,597 digits without their labels (a run that is there already is taken), some eight
minutes on two cores, then measures on the 200 digits held out, in some fifteen more: the linear probe as published and
the fast one, after each block, k-NN, few-shot curves, fine-tuning and training from scratch over three seeds, each
beside raw pixels or the untrained encoder; and fine-tuning against training from scratch on ten labelled images of each
class over five seeds. What is found is printed, and written beside plots; mage-kit report shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mage_kernels import keep_freed_memory
from rich.console import Console
from rich.table import Table

import mage_kit as mk
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.evaluation.feature_cache import FeatureCache
from mage_kit.evaluation.representation import blocks, neighbours, probe_fast, shots
from mage_kit.evaluation.sources import FeatureSource
from mage_kit.evaluation.splits import Split, published_views
from mage_kit.evaluation.subject import FEATURES, Subject
from mage_kit.files import read_json, write_json
from mage_kit.jobs.evaluate import keep, plot, published_probe
from mage_kit.progress import Reporter
from mage_kit.storage import MODEL_FILE, RECIPE_FILE, best_device

RECIPES = Path(__file__).parent.parent / "recipes"
SEEDS = (0, 1, 2)
FEW, FEW_SEEDS = 10, (0, 1, 2, 3, 4)
FEW_CHANGES = ("training.batch=50", "training.epochs=150", "training.warmup_epochs=10", "training.log_every=100")
TOLD = "1,597 digits to learn from, 200 held out, which no part of the model has seen"


def pretrained(out: Path) -> Path:
    """Train the model, or take it where it is complete, or go on with it."""
    if not (out / MODEL_FILE).is_file():
        recipe = mk.Recipe.load(RECIPES / "digits.json", ["data.part=training"])
        mk.train(recipe, out, resume=(out / RECIPE_FILE).is_file())
    return out


def subject_of(run: Path, reporter: Reporter) -> Subject:
    """Return the run with its own split: the digits that it was trained on, and the others."""
    model, recipe = mk.load(run, best_device()), mk.Recipe.load(run / RECIPE_FILE)
    assert recipe.data is not None
    data = recipe.data.model_dump(mode="json")
    parts = [recipe.extended(data={**data, "part": part}).build_dataset() for part in ("training", "held_out")]
    for part in parts:
        part.augment = published_views(part.augment, part.image_size)
    cache = FeatureCache(run / FEATURES / "study", model, reporter=reporter)
    return Subject(run, recipe, model, Split(parts[0], parts[1], TOLD), cache, "raw", reporter)


def classifier(kind: str, run: Path, out: Path, seed: int, changes: Sequence[str] = ()) -> float:
    """Train a classifier, or take a complete one; return its accuracy on the digits held out."""
    start = f'pretrained={{"weights": "{run}", "freeze": false}}' if kind == "finetune" else f"tokenizer.weights={run}"
    settings = [start, f"seed={seed}", "training.validate_every=null", *changes]
    recipe = ClassifierRecipe.load(RECIPES / f"{kind}_digits.json", settings)
    place = out / f"{kind}-{seed}"
    if not (place / MODEL_FILE).is_file():
        mk.train(recipe, place, resume=(place / RECIPE_FILE).is_file())
    measured: dict[str, Any] = read_json(place / "eval" / "accuracy.json")
    return float(measured["ema" if "ema" in measured else "raw"]["top1"])


def spread(found: Sequence[float]) -> dict[str, Any]:
    """Return mean and sample deviation of some accuracies, ready for JSON."""
    deviation = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return {"top1": float(np.mean(found)), "std": deviation, "seeds": len(found), "each": list(found)}


def over_seeds(measure: Callable[[int], float], seeds: Sequence[int]) -> dict[str, Any]:
    """Measure at each seed."""
    return spread([measure(seed) for seed in seeds])


def published(subject: Subject, out: Path) -> dict[str, Any]:
    """Return the published probe of features and untrained encoder over the seeds; the first stays with the run."""
    found: dict[str, list[float]] = {}
    for seed in reversed(SEEDS):  # what the first one leaves stays with the run
        name = subject.run / "eval" / "probe.json" if seed == 0 else out / f"probe-{seed}.json"
        if not name.is_file():
            keep(name, published_probe(subject, [f"seed={seed}"], baseline=True, overwrite=True))
        for row, value in read_json(name)["rows"].items():
            found.setdefault(row, []).append(float(value["top1"]))
    return {row: spread(values) for row, values in found.items()}


def measure(out: Path, reporter: Reporter) -> dict[str, Any]:
    """Measure everything; return it ready for JSON."""
    run = pretrained(out / "pretrained")
    subject, mean = subject_of(run, reporter), [FeatureSource()]
    place = run / "eval"
    found: dict[str, Any] = {"data": TOLD}
    sources = [FeatureSource(), FeatureSource("class"), FeatureSource(norm=True)]
    for name, work in (
        ("probe-fast", lambda: probe_fast(subject, sources)),
        ("blocks", lambda: blocks(subject)),
        ("knn", lambda: neighbours(subject, mean)),
        ("fewshot", lambda: shots(subject, mean)),
    ):
        found[name] = keep(place / f"{name}.json", work())["rows"]
    plot(place / "blocks.json", read_json(place / "blocks.json"), "blocks")
    plot(place / "fewshot.json", read_json(place / "fewshot.json"), "shots")
    found["probe"] = published(subject, out)
    found["classifiers"] = {
        kind: over_seeds(partial(classifier, kind, run, out), SEEDS) for kind in ("finetune", "scratch")
    }
    few = [f"training.images_per_class={FEW}", *FEW_CHANGES]
    found["few_labels"] = {
        kind: over_seeds(partial(classifier, kind, run, out / "few", changes=few), FEW_SEEDS)
        for kind in ("finetune", "scratch")
    }
    pairs = zip(found["few_labels"]["finetune"]["each"], found["few_labels"]["scratch"]["each"], strict=True)
    found["few_labels"]["difference"] = spread([one - other for one, other in pairs])
    return found


def verdict(found: dict[str, Any]) -> str:
    """Say plainly which of fine-tuning and training from scratch wins with few labels."""
    difference = found["few_labels"]["difference"]
    wins = sum(value > 0 for value in difference["each"])
    told = f"{difference['top1']:+.4f} ± {difference['std']:.4f}, better in {wins} of {difference['seeds']} draws"
    word = "wins" if difference["top1"] > 0 and wins > difference["seeds"] / 2 else "DOES NOT WIN"
    return f"with {FEW} labelled images a class fine-tuning {word} against training from scratch: {told}"


def show(found: dict[str, Any], console: Console) -> None:
    """Print everything."""
    table = Table("measure", "of", "top-1", "deviation", title=f"Digits: {found['data']}")
    for measure_, rows in found.items():
        if not isinstance(rows, dict):
            continue
        for name, row in rows.items():
            if "by_shots" in row:
                for count, each in row["by_shots"].items():
                    table.add_row(f"few-shot, {count} a class", name, f"{each['top1']:.4f}", f"{each['std']:.4f}")
            else:
                table.add_row(measure_, str(name), f"{row['top1']:.4f}", f"{row['std']:.4f}" if "std" in row else "")
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
