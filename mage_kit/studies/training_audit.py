"""What a tokenizer's training ends with: is it fit, in figures, in words, and to be looked at.

Legend: I images, C channels, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.files import write_json
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.datasets.stills import still_batches
from mage_kit.datasets.subset import Subset
from mage_kit.evaluation.judging_networks import Judgement, judging_network
from mage_kit.evaluation.tokenizer_audit import audit, verdict
from mage_kit.images.pictures import labelled_rows, save_picture
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import held_out_images, perceptual_kind, tokenizer_weights
from mage_kit.recipes.data_fit import fit_to_data
from mage_kit.store.folders import TOKENIZER_FOLDER, best_device
from mage_kit.store.loading import load_tokenizer
from mage_kit.store.run_folders import AUDIT_FILE, AUDIT_PICTURE, CHECKPOINTS
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.events import EndEvent
from mage_kit.training.tasks.reconstruct import Reconstruct
from mage_kit.training.weight_folders import read_tokenizer_card

_MOST = 1000  # images
_SHOWN = 8
_SMALL = 64  # pixels a side: smaller ones are shown twice as large


class TrainingAudit:
    """Audits a tokenizer as soon as its training has ended; a function of `train`'s `on_end`.

    Args:
        recipe: Of the run.
        reporter: Where words go.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.recipe, self.reporter = recipe, reporter
        self._has_run = False

    def __call__(self, event: EndEvent) -> None:
        """Audit a whole tokenizer that was written; write `AUDIT_FILE` and `AUDIT_PICTURE`, say the verdict."""
        if event.folder.name == TOKENIZER_FOLDER and event.is_whole:
            self._run(event.folder)

    def make_up(self, run: Path) -> None:
        """Audit the tokenizer of a run that was killed between its last step and the end of its audit."""
        tokenizer = run / TOKENIZER_FOLDER
        was_trained_here = (run / CHECKPOINTS / Reconstruct.stage).is_dir()
        is_whole = was_trained_here and bool(read_tokenizer_card(tokenizer).get("fingerprint"))
        if is_whole and not self._has_run and not (run / AUDIT_FILE).is_file():
            self._run(tokenizer)

    def _run(self, tokenizer: Path) -> None:
        self._has_run = True
        try:
            self.recipe, _ = fit_to_data(self.recipe)
            images, where = held_out_images(self.recipe)
            places = np.linspace(0, len(images) - 1, min(len(images), _MOST)).round().astype(int)
            some = Subset(images, [int(place) for place in places])
            result = self._measure(load_tokenizer(tokenizer).to(best_device()), some, tokenizer.parent)
        except Exception as error:  # the tokenizer is written; what cannot be measured does not undo it
            self.reporter.say(f"tokenizer not audited: {error}")
            return
        write_json(tokenizer.parent / AUDIT_FILE, {"images": where, **result})
        self.reporter.say(f"audit on {result['reconstructions']['images']} images ({where}): {result['verdict']}")
        if distance := result.get("frechet"):
            self.reporter.say(
                f"Fréchet distance of reconstructions by {distance['network']}: {distance['value']:.1f} "
                f"(one half of the images from the other: {distance['floor']:.1f}); no FID"
            )

    def _measure(self, tokenizer: Tokenizer, images: Dataset, run: Path) -> dict[str, Any]:
        network = judging_network(perceptual_kind(self.recipe)) if tokenizer.channels == 3 else None
        judgement = None if network is None else Judgement(network)
        figures = audit(
            tokenizer, images, reporter=self.reporter, on_batch=None if judgement is None else judgement.add
        )
        result: dict[str, Any] = {"reconstructions": figures.as_dict(), "verdict": verdict(figures)}
        if judgement is not None and (distance := judgement.as_dict()):
            result["frechet"] = distance
        before = self._before()
        views = _first(images, _SHOWN)
        rows = [(images.credit or "images", views), ("as reconstructed before this training", _rebuilt(before, views))]
        rows.append(("and after it", _rebuilt(tokenizer, views)))
        for text, place in (("worst images", 0), ("as reconstructed after it", 1)):
            rows.append((text, torch.from_numpy(np.stack([pair[place] for pair in figures.pairs])).float() / 255))
        scale = 2 if max(tokenizer.image_size) <= _SMALL else 1
        save_picture(labelled_rows(rows, scale=scale), run / AUDIT_PICTURE)
        return result

    def _before(self) -> Tokenizer:
        """The tokenizer that the training began with: the one that the recipe names, or random weights."""
        weights = tokenizer_weights(self.recipe)
        return self.recipe.build_tokenizer().eval() if weights is None else load_tokenizer(weights)


def _first(images: Dataset, count: int) -> Tensor:
    """The first images that can be read, in [0, 1]: float (I, C, H, W), at least one."""
    views: list[np.ndarray] = []
    for stills in still_batches(images, [[index] for index in range(len(images))]):
        views += [sample.views[0] for sample in stills.samples]
        if len(views) == count:
            break
    return torch.from_numpy(np.stack(views)).float() / 255


@torch.no_grad()
def _rebuilt(tokenizer: Tokenizer, views_ICHW: Tensor) -> Tensor:
    device = next(iter(tokenizer.state_dict().values()), views_ICHW).device
    return tokenizer.decode(tokenizer.encode(views_ICHW.to(device))).cpu()
