"""The main job on real data: train on handwritten digits, generate, reconstruct, probe, measure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.files import write_json
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.features import labels_of
from mage_kit.evaluation.folds import probe_run
from mage_kit.evaluation.judgement import (
    SmallReference,
    judge_samples,
    make_small_reference,
    nearest_real,
    reconstruction_psnr,
)
from mage_kit.evaluation.plots import plot_curves
from mage_kit.generation import generate
from mage_kit.images.pictures import grid_picture, labelled_rows, save_picture
from mage_kit.models.mage import Mage
from mage_kit.recipes import Recipe, untrained_like
from mage_kit.recipes.answers import evaluation_of
from mage_kit.report import write_report
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load
from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import train

SHOWN = 64


def run_demo(recipe: Recipe, out: Path, reporter: Reporter, *, resume: bool = False) -> dict[str, Any]:
    """Train and measure; leave pictures, metrics.json and report.html in the run folder.

    Args:
        recipe: A recipe with labelled data that fits in memory.
        out: The run folder; new or empty, unless `resume`.
        reporter: Where progress goes.
        resume: Go on with a run that was interrupted.

    Returns:
        The contents of metrics.json.
    """
    labels_of(recipe.build_dataset())  # measuring needs them: say so before any training
    start = time.monotonic()
    train(recipe, out, resume=resume)
    trained = time.monotonic()
    result = measure_run(out, recipe, reporter)
    result["seconds"] = {
        "training": round(trained - start, 1),
        "measuring": round(time.monotonic() - trained, 1),
    }
    write_json(out / "metrics.json", result, listed=True)
    write_report(out, overwrite=True, reporter=reporter)
    return result


def measure_run(folder: Path, recipe: Recipe, reporter: Reporter) -> dict[str, Any]:
    """Measure a trained run and draw its pictures: samples, reconstructions, nearest real images, curves."""
    model = load(folder, best_device())
    reference = make_small_reference(recipe.build_dataset(), recipe.seed, reporter)
    images, generated = measure_samples(model, reference, recipe, reporter, "generating")
    untrained = untrained_like(recipe, model)
    _, before = measure_samples(untrained, reference, recipe, reporter, "generating with the untrained model")
    psnr, rebuilt = reconstruction_psnr(model, reference.images_ICHW)
    probes = probe_run(folder, reporter)
    _draw(folder, images, rebuilt, reference)
    return {
        "linear_probe_top1": probes["linear_probe"]["top1"],
        "untrained_probe_top1": probes["untrained"]["top1"],
        "raw_pixel_top1": probes["raw_pixels"]["top1"],
        "probe_winner": "features" if probes["linear_probe"]["top1"] > probes["raw_pixels"]["top1"] else "raw pixels",
        "probe_note": probes["note"],
        "reconstruction_psnr": psnr,
        "frechet_generated": generated["frechet"],
        "frechet_real": reference.frechet_real(),
        "frechet_untrained": before["frechet"],
        "frechet_note": (
            "features of a small classifier of real images; frechet_real: one half of them against the other; not FID"
        ),
        "classifier_accuracy": reference.accuracy,
        "sure_share": generated["sure_share"],
        "class_shares": generated["class_shares"],
        "samples": evaluation_of(recipe).samples,
        "loss_by_ratio": loss_by_ratio(folder),
    }


def measure_samples(
    model: Mage, reference: SmallReference, recipe: Recipe, reporter: Reporter, what: str
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Generate the recipe's number of samples and measure them."""
    count = evaluation_of(recipe).samples
    with reporter.task(f"{what} {count} images", count * model.decoding.steps) as task:
        samples = generate(model, count, seed=recipe.seed, batch=250, on_progress=lambda done, _: task.update(done))
    images = samples.images_BCHW.cpu()
    return images, judge_samples(images, reference)


def loss_by_ratio(folder: Path) -> dict[str, float]:
    """Return the last logged loss by mask ratio."""
    records = read_metrics(folder, "model")
    return {name: round(item["loss"], 4) for name, item in records[-1]["by_ratio"].items()} if records else {}


def _draw(folder: Path, images: torch.Tensor, rebuilt: torch.Tensor, reference: SmallReference) -> None:
    save_picture(grid_picture(images[:SHOWN], 8, scale=2), folder / "samples.png")
    real = reference.images_ICHW
    chosen = torch.arange(0, len(real), max(1, len(real) // 16))[:16]
    rows = [("real images", real[chosen]), ("through the tokenizer and back", rebuilt[chosen])]
    save_picture(labelled_rows(rows, scale=2), folder / "reconstructions.png")
    nearest = nearest_real(images[:8], real)
    rows = [("generated", images[:8]), ("nearest real image, by pixels", nearest)]
    save_picture(labelled_rows(rows, scale=3), folder / "nearest.png")
    plot_curves(read_metrics(folder), folder / "curves.png")
