"""What a tokenizer's training ends with: is it fit, in figures, in words, and to be looked at.

Legend: I images, C channels, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import write_json
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.datasets.stills import still_batches
from mage_kit.datasets.subset import Subset
from mage_kit.evaluation.judging_networks import judging_network
from mage_kit.evaluation.tokenizer_audit import audit, verdict
from mage_kit.images.pictures import labelled_rows, save_picture
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import held_out_images, perceptual_kind
from mage_kit.store.folders import TOKENIZER_FOLDER
from mage_kit.store.loading import load_tokenizer
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.events import EndEvent

AUDIT_FILE, AUDIT_PICTURE = "tokenizer_audit.json", "tokenizer_audit.png"  # of a run
_MOST = 1000  # images
_SHOWN = 8
_SMALL = 64  # pixels a side: smaller ones are shown twice as large
_FEWEST = 50  # images for a Fréchet distance


class TrainingAudit:
    """Audits a tokenizer as soon as its training has ended; a function of `train`'s `on_end`.

    Args:
        recipe: Of the run.
        reporter: Where words go.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.recipe, self.reporter = recipe, reporter

    def __call__(self, event: EndEvent) -> None:
        """Audit a whole tokenizer that was written; write `AUDIT_FILE` and `AUDIT_PICTURE`, say the verdict."""
        if event.folder.name != TOKENIZER_FOLDER or not event.is_whole:
            return
        images, where = held_out_images(self.recipe)
        places = np.linspace(0, len(images) - 1, min(len(images), _MOST)).round().astype(int)
        some = Subset(images, [int(place) for place in places])
        try:
            result = self._measure(load_tokenizer(event.folder), some, event.folder.parent)
        except MageKitError as error:  # the tokenizer is written; what cannot be measured does not undo it
            self.reporter.say(f"tokenizer not audited: {error}")
            return
        write_json(event.folder.parent / AUDIT_FILE, {"images": where, **result})
        self.reporter.say(f"audit on {result['reconstructions']['images']} images ({where}): {result['verdict']}")
        if distance := result.get("frechet"):
            self.reporter.say(
                f"Fréchet distance of reconstructions by {distance['network']}: {distance['value']:.1f} "
                f"(one half of the images from the other: {distance['floor']:.1f}); no FID"
            )

    def _measure(self, tokenizer: Tokenizer, images: Dataset, run: Path) -> dict[str, Any]:
        figures = audit(tokenizer, images, reporter=self.reporter)
        views, rebuilt = _reconstructions(tokenizer, images)
        rows = [("images", views[:_SHOWN]), ("their reconstructions", rebuilt[:_SHOWN])]
        for text, place in (("worst images", 0), ("their reconstructions", 1)):
            rows.append((text, torch.from_numpy(np.stack([pair[place] for pair in figures.pairs]))))
        scale = 2 if max(tokenizer.image_size) <= _SMALL else 1
        save_picture(
            labelled_rows([(text, part.float() / 255) for text, part in rows], scale=scale), run / AUDIT_PICTURE
        )
        result: dict[str, Any] = {"reconstructions": figures.as_dict(), "verdict": verdict(figures)}
        network = judging_network(perceptual_kind(self.recipe)) if tokenizer.channels == 3 else None
        if network is not None and len(views) >= _FEWEST:
            value, floor = network.distances(views, rebuilt)
            result["frechet"] = {"network": network.name, "sha256": network.sha256, "value": value, "floor": floor}
        return result


@torch.no_grad()
def _reconstructions(tokenizer: Tokenizer, images: Dataset) -> tuple[Tensor, Tensor]:
    """Images that can be read and their reconstructions, uint8 (I, C, H, W)."""
    views, rebuilt = [], []
    for stills in still_batches(images, [range(s, min(s + 32, len(images))) for s in range(0, len(images), 32)]):
        if stills.samples:
            part = torch.from_numpy(np.stack([sample.views[0] for sample in stills.samples]))
            views.append(part)
            tokens = tokenizer.encode(part.float() / 255)
            rebuilt.append((tokenizer.decode(tokens).clamp(0, 1) * 255).byte())
    return torch.cat(views), torch.cat(rebuilt)
