"""Classifiers fine-tuned from MAE."""

from __future__ import annotations

from typing import Any

from torch import nn

from mage_kit.legacy.layout import Options, Pair, Shapes, one_to_one
from mage_kit.legacy.mae_tensors import ENCODER, HIDDEN, POSITIONS, MaeTensors
from mage_kit.models.classifier import MageClassifier


class MaeClassifierLayout(MaeTensors):
    """A classifier fine-tuned from MAE with a mean over patches, under "model"."""

    kind = "mae_classifier"
    title = "a fine-tuned MAE classifier"

    def recognises(self, names: set[str]) -> bool:
        """Patches, and a norm of the mean before the head."""
        return {"patch_embed.proj.weight", "pos_embed", "fc_norm.weight", "head.weight"} <= names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read width, depth and classes."""
        tokenizer, encoder = self.tokenizer(shapes, options), self.encoder(shapes, options)
        classes = shapes.of("head.weight", 2)[0]
        return MageClassifier(tokenizer=tokenizer, encoder=encoder, classes=classes, embedding=POSITIONS)

    def pairs(self, module: Any) -> list[Pair]:
        """Prefixes renamed."""
        special = self.shared(module)
        known = {HIDDEN, *(pair.ours for pair in special)}
        names = [name for name in module.state_dict() if name not in known]
        return [*one_to_one(names, {**ENCODER, "norm.": "fc_norm."}), *special]
