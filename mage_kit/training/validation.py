"""Top-1 accuracy of a classifier on labelled images, by all processes together."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.doors import trusted
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.files import write_json
from mage_kit.base.processes import add_up, all_or_none, on_first, rank, shared, world
from mage_kit.base.progress import ProgressTask, Reporter
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.stills import broken_facts, check_broken, still_batches
from mage_kit.layers.blocks import evaluating
from mage_kit.models.classifier import MageClassifier
from mage_kit.store.folders import load_state
from mage_kit.store.run_folders import EVAL
from mage_kit.training.checkpoints import mean_state
from mage_kit.training.metrics import MetricsLog, read_metrics
from mage_kit.training.players import Player

ACCURACY_FILE = Path(EVAL) / "accuracy.json"


@dataclass(frozen=True)
class Accuracy:
    """How often a classifier is right.

    Args:
        top1: Share of the images whose likeliest class is theirs.
        top5: Share of those whose class is among the five likeliest.
        loss: Mean cross-entropy, natural logarithm, without smoothing.
        images: How many were looked at.
        broken: How many could not be.
        errors: What is wrong with these.
    """

    top1: float
    top5: float
    loss: float
    images: int
    broken: int = 0
    errors: tuple[BrokenImageError, ...] = ()

    def as_dict(self) -> dict[str, float]:
        """Return its numbers, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "errors"}


@torch.no_grad()
@trusted()
def measure_accuracy(
    model: MageClassifier,
    dataset: Dataset,
    *,
    batch: int = 256,
    strict: bool = True,
    reporter: Reporter | None = None,
) -> Accuracy:
    """Classify the evaluation view of every image, float32.

    Args:
        model: The classifier; put into evaluation mode for the while.
        dataset: Labelled images; each process looks at every world-th.
        batch: Images at once.
        strict: Raise where more images are broken than the data set's `max_broken` allows; else leave them out.
        reporter: Where progress goes.

    Raises:
        MageKitError: If an image has no label, none can be read, or, where `strict`, too few.
    """
    sums = torch.zeros(5, dtype=torch.float64, device=model.device)
    with evaluating(model), (reporter or Reporter()).task("measuring accuracy", len(dataset)) as task:
        errors = [error for part in all_or_none(lambda: _count(model, dataset, batch, sums, task)) for error in part]
    first, five, loss, images, broken = add_up(sums).tolist()
    if strict and errors:
        check_broken(len(errors), dataset, str(errors[-1]))
    if not images:
        last = f", of {len(dataset)}; the last: {errors[-1]}" if errors else ""
        raise shared(MageKitError(f"data: no image could be read{last}"))
    return Accuracy(first / images, five / images, loss / images, int(images), int(broken), tuple(errors))


class Validation:
    """The accuracy of a classifier while it is trained, written into its log.

    Args:
        images: Labelled images.
        log: Where a line goes.
        reporter: Where progress goes.
    """

    def __init__(self, images: Dataset, log: MetricsLog, reporter: Reporter) -> None:
        self.images, self.log, self.reporter = images, log, reporter
        self._last: tuple[int, Accuracy] | None = None

    def measure(self, model: MageClassifier, step: int) -> Accuracy:
        """Measure after a step, and write it down."""
        accuracy = measure_accuracy(model, self.images, reporter=Reporter.silent())  # training shows its own progress
        record = {"stage": "validation", "step": step, **accuracy.as_dict()}
        self.log.write(record)
        self.reporter.say(f"step {step}: validation top-1 {accuracy.top1:.4f}")
        self._last = (step, accuracy)
        return accuracy

    def has(self, step: int) -> bool:
        """Return whether the accuracy after a step stands in the log."""
        return any(record["step"] == step for record in read_metrics(self.log.file.parent, "validation"))

    def after(self, model: MageClassifier, step: int) -> Accuracy:
        """Return the accuracy after a step: the one just measured, or else measured now."""
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        return measure_accuracy(model, self.images, strict=False, reporter=self.reporter)


def measure_at_end(validation: Validation, player: Player, step: int, folder: Path) -> None:
    """Measure raw and mean weights and write them down; what fails costs nobody a trained classifier.

    Args:
        validation: On what.
        player: Whose module is the classifier.
        step: The last.
        folder: The run's.
    """
    try:
        _measure_weights(validation, player, step, folder)
    except Exception as error:  # images that went away, no memory
        validation.reporter.say(f"accuracy not measured: {error}; mage-kit eval accuracy {folder} measures it later")


def _measure_weights(validation: Validation, player: Player, step: int, folder: Path) -> None:
    means = None if player.mean is None else mean_state(player)
    model = player.module
    assert isinstance(model, MageClassifier)
    raw = validation.after(model, step)
    result = {"raw": raw.as_dict()}
    if player.mean is not None:
        mean_model = copy.deepcopy(model)
        load_state(mean_model, on_first(lambda: means or {}), "running mean of the weights")
        mean = measure_accuracy(mean_model, validation.images, strict=False, reporter=validation.reporter)
        result["ema"] = mean.as_dict()
    record = {
        "measure": "accuracy",
        "protocol": "evaluation views, float32",
        "data": "the recipe's validation images",
        "data_sha256": on_first(partial(fingerprint, validation.images)),
        "images": raw.images,
        **broken_facts(raw.errors, validation.images),
        "rows": result,
    }
    on_first(lambda: _write(folder / ACCURACY_FILE, record))
    for name, value in result.items():
        validation.reporter.say(f"{name} weights: top-1 {value['top1']:.4f} on {value['images']} images")


def _write(file: Path, result: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_json(file, result, listed=True)


def _count(
    model: MageClassifier, dataset: Dataset, batch: int, sums: Tensor, task: ProgressTask
) -> list[BrokenImageError]:
    """Add this process's share to the sums: first hits, hits among five, losses, images, broken ones; return these."""
    errors: list[BrokenImageError] = []
    labels = dataset.labels()
    mine = range(rank(), len(dataset), world())
    device, most = model.device, min(5, model.classes)
    parts = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    for part, stills in zip(parts, still_batches(dataset, parts), strict=True):
        sums[4] += len(stills.broken)
        errors += stills.broken
        if stills.samples:
            places = [sample.index for sample in stills.samples]
            views = np.stack([sample.views[0] for sample in stills.samples])
            images = torch.from_numpy(views).to(device)
            tokens = model.see(images.float() / 255)  # stills are images, of a token cache too
            wanted_B = torch.from_numpy(labels[places]).to(device)
            logits_BK = model(tokens).float()
            hits_B5 = logits_BK.topk(most, dim=1).indices == wanted_B[:, None]
            loss = torch.nn.functional.cross_entropy(logits_BK, wanted_B, reduction="sum")
            counts = (hits_B5[:, 0].sum(), hits_B5.sum(), loss, torch.tensor(len(places), device=device))
            sums[:4] += torch.stack([count.double() for count in counts])
        task.update(min(part[-1] + 1, len(dataset)))
    return errors
