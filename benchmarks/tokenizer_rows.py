"""The rows of the tokenizers' benchmark: what each trains, and what is measured of it on crops held out.

A row is one training of the tokenizer of recipes/vqgan_photos.json with changes. Its figures are a small JSON and a
strip of pictures, which are committed: another machine goes on from them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mage_kit as mk
from benchmarks.photograph_crops import FACTS
from benchmarks.tokenizer_models import model_tokens
from mage_kit.base.files import read_json, write_json
from mage_kit.base.json_text import without_nulls
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.judging_networks import Judgement, judging_networks
from mage_kit.evaluation.tokenizer_audit import audit
from mage_kit.images.pictures import grid_picture, save_picture
from mage_kit.store.folders import RECIPE_FILE, TOKENIZER_FOLDER
from mage_kit.store.loading import load_tokenizer
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import TASKS

SHOWN = 8
LITE0, SQUEEZENET = "efficientnet_lite0", "squeezenet"
EMA: dict[str, Any] = {"kind": "ema", "codes": 1024, "width": 32, "decay": 0.99, "restart": 0.03}


@dataclass(frozen=True)
class Row:
    """One training.

    Args:
        name: Of its files, and of the run.
        label: What the table calls it.
        training: Changes to the task; `kind` with them.
        quantizer: Of the tokenizer: ten bits a token.
        seed: Of the run.
        modelled: Whether a masked model learns its tokens afterwards, and generates.
    """

    name: str
    label: str
    training: dict[str, Any]
    quantizer: dict[str, Any] = field(default_factory=lambda: EMA)
    seed: int = 0
    modelled: bool = False

    def recipe(self, crops: Path, steps: int) -> mk.Recipe:
        """The recipe of this row; every row has the same crops, steps and tokenizer but for its quantizer."""
        shipped = mk.Recipe.load("vqgan_photos")
        assert shipped.data is not None and shipped.training is not None
        tokenizer = {**shipped.tokenizer.model_dump(mode="json"), "quantizer": self.quantizer}
        data = shipped.data.model_dump(mode="json")
        augment = {**data["augment"], "area": [0.5, 1.0]}
        data |= {"path": str(crops / "training"), "part": "all", "augment": augment}
        # Hues are weighed in no row but the one of that name: squared error is then nothing else.
        task = {**shipped.training.model_dump(mode="json"), "chroma_weight": 0.0, **self.training}
        known = TASKS.config_of(task["kind"]).model_fields
        task = {name: value for name, value in task.items() if name in known}
        warm_up = min(task["warmup_steps"], steps // 10)
        task |= {"steps": steps, "warmup_steps": warm_up, "checkpoint_every": 250}
        return shipped.extended(name=self.name, seed=self.seed, fit=[], data=data, tokenizer=tokenizer, training=task)

    def fingerprint(self, facts: dict[str, Any], steps: int) -> str:
        """What tells whether stored figures are of this row: recipe and crops, and not where they lie.

        What is null in the recipe is left out: a later option that is off by default changes nothing.
        """
        recipe = without_nulls(json.loads(self.recipe(Path("crops"), steps).to_json()))
        text = json.dumps([recipe, facts["sha256"], self.modelled], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def stored(row: Row, results: Path, facts: dict[str, Any], steps: int) -> dict[str, Any] | None:
    """Return a row's figures if they are there, and of this row."""
    file = results / f"{row.name}.json"
    if not file.is_file():
        return None
    figures: dict[str, Any] = read_json(file)
    return figures if figures["fingerprint"] == row.fingerprint(facts, steps) else None


def measure_row(row: Row, runs: Path, results: Path, steps: int, reporter: Reporter) -> dict[str, Any]:
    """Train a row, or go on with it; measure it, write JSON and strip; return the figures.

    Args:
        row: Which.
        runs: Folder of runs and crops.
        results: Where figures and strips go.
        steps: Of the training.
        reporter: Where progress goes.
    """
    crops = runs / "crops"
    facts = read_json(crops / FACTS)
    recipe, run = row.recipe(crops, steps), runs / f"{row.name}-{steps}"
    has_begun = (run / RECIPE_FILE).is_file()
    if has_begun and mk.Recipe.load(run / RECIPE_FILE).to_json() != recipe.to_json():
        shutil.rmtree(run)  # of another state of this benchmark
        has_begun = False
    mk.train(recipe, run, resume=has_begun, reporter=reporter)
    tokenizer = load_tokenizer(run / TOKENIZER_FOLDER)
    images = recipe.changed("data", path=str(crops / "held_out")).build_dataset()
    figures: dict[str, Any] = {
        "row": row.name, "label": row.label, "fingerprint": row.fingerprint(facts, steps),
        "date": time.strftime("%Y-%m-%d"), "steps": steps, "seconds": _seconds(run, recipe), "seed": row.seed,
        "tokens": tokenizer.spec.grid.size, "codes": tokenizer.spec.codes,
        "levels": len(mk.Recipe.load("vqgan_photos").tokenizer.get("multipliers")),
        "bits": tokenizer.spec.grid.size * float(np.log2(tokenizer.spec.codes or 1)),
        "training": row.training, "torch": torch.__version__,
    }  # fmt: skip
    figures |= _judge(tokenizer, images, results / f"{row.name}.png", reporter)
    if row.modelled:
        figures["model"] = model_tokens(recipe, run, results / f"{row.name}-generated.png", SHOWN, reporter)
    write_json(results / f"{row.name}.json", figures)
    return figures


def _seconds(run: Path, recipe: mk.Recipe) -> float:
    """Return what the training takes at its median rate: pauses, and what else the machine did, are no part of it."""
    records = read_metrics(run, "tokenizer")
    assert recipe.training is not None
    images = recipe.training.model_dump()["batch"] * records[-1]["step"]
    return float(images / statistics.median(record["images_per_s"] for record in records if "images_per_s" in record))


def _judge(tokenizer: mk.Tokenizer, images: mk.Dataset, strip: Path, reporter: Reporter) -> dict[str, Any]:
    judgements, parts = {network.kind: Judgement(network) for network in judging_networks()}, []

    def look(views: Tensor, rebuilt: Tensor) -> None:
        parts.append((views, rebuilt))
        for judgement in judgements.values():
            judgement.add(views, rebuilt)

    figures = audit(tokenizer, images, reporter=reporter, on_batch=look)
    views, rebuilt = (torch.cat(pixels) for pixels in zip(*parts, strict=True))
    places = np.linspace(0, len(views) - 1, SHOWN + 2).round().astype(int)[1:-1]
    for file, pixels in ((strip, rebuilt), (strip.with_name("images.png"), views)):
        save_picture(grid_picture(pixels[places].float() / 255, SHOWN), file)
    distances = {kind: judgement.as_dict() for kind, judgement in judgements.items()}
    return {"reconstructions": figures.as_dict(), "frechet": distances}
