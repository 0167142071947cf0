"""Editing, selections and labels, measured on digits that no model has seen.

python -m benchmarks.pictures [--out runs/pictures] [--json FILE]

Trains recipes/digits_demo.json and recipes/class_conditional_digits.json on 1,597 digits (a run that is there already
is taken), about seven minutes on two cores, then measures with a classifier of real digits: half of each of the 200
digits held out painted anew, class-conditional samples with and without guidance, and the Fréchet distance (of that
classifier's features; not FID) of every selection at 8, 12 and 20 steps. What is found is printed, and written beside
pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mage_kernels import keep_freed_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor

import mage_kit as mk
from mage_kit.base.files import write_json
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.features import still_images
from mage_kit.evaluation.judgement import SmallReference, judge_samples
from mage_kit.evaluation.small_classifier import Classifier, train_classifier
from mage_kit.images.pictures import labelled_rows, save_picture
from mage_kit.store.folders import MODEL_FILE

RECIPES = Path(__file__).parent.parent / "recipes"
STEPS = (8, 12, 20)
SAMPLES = 1000
SEEDS = (0, 1, 2)
SHOWN = 20
WANTED = {"painted": 0.6, "margin": 0.15, "classifier": 0.97, "labels": 0.90, "guided": 0.95}


@dataclass(frozen=True)
class Digits:
    """Real digits: (I, 1, 32, 32) uint8 and their labels."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Study:
    """Two trained models, and what they are measured with."""

    model: mk.Mage
    conditional: mk.Mage
    real: Digits
    held: Digits
    reference: SmallReference


def digits(recipe: mk.Recipe, part: str) -> Digits:
    """Return the training or the held-out digits."""
    assert recipe.data is not None
    data = {**recipe.data.model_dump(mode="json"), "part": part}
    images, labels = still_images(recipe.extended(data=data).build_dataset())
    return Digits(images, torch.from_numpy(labels))


def trained(recipe: mk.Recipe, out: Path) -> mk.Mage:
    """Train a run, or take it where it is complete, or go on with it."""
    if not (out / MODEL_FILE).is_file():
        mk.train(recipe, out, resume=(out / "recipe.json").is_file())
    return mk.load(out)


def halves(count: int, side: int) -> Tensor:
    """Return masks (count, 1, side, side): left, right, upper and lower half in turn."""
    masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    masks[0::4, :, :, : side // 2] = masks[1::4, :, :, side // 2 :] = True
    masks[2::4, :, : side // 2] = masks[3::4, :, side // 2 :] = True
    return masks


def corners(count: int, side: int) -> Tensor:
    """Return masks (count, 1, side, side): a cell of a 4 x 4 grid, at four places in turn."""
    masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    cell = side // 4
    for place, (row, column) in enumerate(((0, 1), (0, 2), (3, 1), (3, 2))):
        masks[place::4, :, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = True
    return masks


def painted(model: mk.Mage, images: Tensor, masks: Tensor, dilate: int, reporter: Reporter) -> Tensor:
    """Paint each image's masked part anew, (I, 1, side, side) uint8."""
    made = []
    with reporter.task(f"painting, dilate {dilate}", len(images)) as task:
        for index, (image, mask) in enumerate(zip(images[:, 0], masks[:, 0], strict=True)):
            edited = mk.inpaint(model, image.numpy(), mask.numpy(), seed=index, dilate=dilate)
            made.append(torch.from_numpy(np.array(edited.pictures[0]))[None])
            task.update(index + 1)
    return torch.stack(made)


def share(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the share of uint8 images that the classifier takes for their label."""
    judged = torch.from_numpy(classifier.judge(images.float() / 255).classes)
    return float((judged == labels).float().mean())


def measure_inpainting(study: Study, out: Path, reporter: Reporter) -> dict[str, float]:
    """Paint half of each held-out digit anew, beside what needs no model at all; and one cell, at dilate 0, 1 and 2.

    Two rings around a half would leave nothing of a 4 x 4 grid known, and are refused.
    """
    model, held, real = study.model, study.held, study.real
    masks = halves(len(held.images), held.images.shape[-1])
    chosen = torch.from_numpy(np.random.default_rng(0).integers(0, len(real.images), len(held.images)))
    pictures = {
        "real": held.images,
        "blank": torch.where(masks, 0, held.images),
        "grey": torch.where(masks, 128, held.images),
        "other": torch.where(masks, real.images[chosen], held.images),
    }
    for dilate in (0, 1):
        pictures[f"dilate {dilate}"] = painted(model, held.images, masks, dilate, reporter)
    corner = corners(len(held.images), held.images.shape[-1])
    pictures["corner, grey"] = torch.where(corner, 128, held.images)
    for dilate in (0, 1, 2):
        pictures[f"corner, dilate {dilate}"] = painted(model, held.images, corner, dilate, reporter)
    first = {
        "held-out digits": held.images,
        "half of each": torch.where(masks, 128, held.images),
        "painted anew (dilate 1)": pictures["dilate 1"],
        "painted anew (dilate 0)": pictures["dilate 0"],
        "with half of a random training digit": pictures["other"],
    }
    rows = [(name, images[:SHOWN].float() / 255) for name, images in first.items()]
    save_picture(labelled_rows(rows, scale=2), out / "inpainting.png")
    return {name: share(study.reference.classifier, images, held.labels) for name, images in pictures.items()}


def measure_labels(model: mk.Mage, reference: SmallReference, out: Path) -> dict[str, dict[str, float]]:
    """Generate each class in turn, with guidance of several kinds."""
    kinds = {"without": mk.Guidance(scale=0.0), "recipe": model.decoding.guidance}
    for schedule in ("constant", "linear", "cosine"):
        kinds[f"{schedule} 1.5"] = mk.Guidance.model_validate({"scale": 1.5, "schedule": schedule})
    result, rows = {}, []
    for name, guidance in kinds.items():
        made = mk.generate(model, SAMPLES, batch=250, guidance=guidance)
        assert made.labels_B is not None
        images = (made.images_BCHW * 255).round().to(torch.uint8)
        result[name] = {
            "as_asked": share(reference.classifier, images, made.labels_B),
            "frechet": judge_samples(made.images_BCHW, reference)["frechet"],
        }
        rows.append((f"guidance: {name}", made.images_BCHW[:SHOWN]))
    save_picture(labelled_rows(rows, scale=2), out / "labels.png")
    return result


def measure_selections(
    model: mk.Mage, reference: SmallReference, reporter: Reporter
) -> dict[str, dict[int, list[float]]]:
    """Return the Fréchet distance of every selection and number of steps, for each seed."""
    own = model.decoding.selection
    choices: dict[str, mk.Selection] = {
        "gumbel_confidence": own,
        "halton": mk.Halton(),
        "random": mk.RandomSelection(),
        "entropy": mk.Entropy(),
        "margin": mk.Margin(),
        "purity": mk.Purity(),
    }
    result: dict[str, dict[int, list[float]]] = {name: {} for name in choices}
    with reporter.task("selections", len(choices) * len(STEPS) * len(SEEDS)) as task:
        done = 0
        for name, selection in choices.items():
            for steps in STEPS:
                for seed in SEEDS:
                    made = mk.generate(model, SAMPLES, seed=seed, batch=250, steps=steps, selection=selection)
                    found = judge_samples(made.images_BCHW, reference)["frechet"]
                    result[name].setdefault(steps, []).append(found)
                    done += 1
                    task.update(done)
    return result


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Return what was asked for, and whether it holds."""
    painted, labels = result["inpainting"], result["labels"]
    best = max(painted[name] for name in ("blank", "grey", "other"))
    return {
        f"classifier of real digits at least {WANTED['classifier']}": painted["real"] >= WANTED["classifier"],
        f"painted halves at least {WANTED['painted']}": painted["dilate 0"] >= WANTED["painted"],
        f"and {WANTED['margin']} above blank and borrowed ones": painted["dilate 0"] >= best + WANTED["margin"],
        f"labels without guidance at least {WANTED['labels']}": labels["without"]["as_asked"] >= WANTED["labels"],
        f"labels with it at least {WANTED['guided']}": labels["recipe"]["as_asked"] >= WANTED["guided"],
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    table = Table("picture", "taken for the original's digit", title="Half of each of 200 held-out digits")
    for name, value in result["inpainting"].items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    table = Table("guidance", "taken for the digit asked for", "Fréchet", title="Class-conditional")
    for name, item in result["labels"].items():
        table.add_row(name, f"{item['as_asked']:.3f}", f"{item['frechet']:.2f}")
    console.print(table)
    table = Table("selection", *(f"{steps} steps" for steps in STEPS), title="Fréchet, mean (deviation) of three seeds")
    for name, row in result["selections"].items():
        table.add_row(name, *(f"{np.mean(row[steps]):.2f} ({np.std(row[steps]):.2f})" for steps in STEPS))
    console.print(table)
    console.print(f"real digits against real digits: {result['frechet_real']:.2f}; least distance: {result['winner']}")
    for what, holds in verdicts(result).items():
        console.print(f"{'holds' if holds else 'DOES NOT HOLD'}: {what}", markup=False, highlight=False)


def prepare(out: Path, reporter: Reporter, first: Sequence[str] = (), second: Sequence[str] = ()) -> Study:
    """Train what is missing.

    Args:
        out: Folder of both runs.
        reporter: Where progress goes.
        first: Changes of the recipe of the digits.
        second: Changes of the recipe of the labels.
    """
    recipe = mk.Recipe.load(RECIPES / "digits_demo.json", ["data.part=training", *first])
    model = trained(recipe, out / "digits")
    assert recipe.data is not None
    area = recipe.data.model_dump(mode="json")["augment"]["area"]  # the crops of the run that it starts from
    changes = ["data.part=training", f"pretrained.weights={out / 'digits'}", f"data.augment.area={area}", *second]
    conditional = trained(mk.Recipe.load(RECIPES / "class_conditional_digits.json", changes), out / "classes")
    real, held = digits(recipe, "training"), digits(recipe, "held_out")
    images = real.images.float() / 255
    classifier, accuracy = train_classifier(images, real.labels, 10, seed=0, reporter=reporter)
    return Study(
        model, conditional, real, held, SmallReference(images, classifier, accuracy, classifier.judge(images), 0)
    )


def measure(out: Path, reporter: Reporter) -> dict[str, Any]:
    """Train what is missing, measure, draw."""
    study = prepare(out, reporter)
    result: dict[str, Any] = {
        "inpainting": measure_inpainting(study, out, reporter),
        "labels": measure_labels(study.conditional, study.reference, out),
        "selections": measure_selections(study.model, study.reference, reporter),
        "frechet_real": study.reference.frechet_real(),
    }
    rows = result["selections"].items()
    means = {(name, steps): float(np.mean(found)) for name, row in rows for steps, found in row.items()}
    name, steps = min(means, key=lambda key: means[key])
    result["winner"] = f"{name} at {steps} steps ({means[name, steps]:.2f})"
    return result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    asked.out.mkdir(parents=True, exist_ok=True)
    result = measure(asked.out, Reporter())
    show(result, Console())
    write_json(asked.json or asked.out / "pictures.json", {**result, "holds": verdicts(result)})
    raise SystemExit(0 if all(verdicts(result).values()) else 1)


if __name__ == "__main__":
    main()
