"""A classifier's training pass as one of a masked model's that hides nothing: the planner counts it as any other."""

from __future__ import annotations

from torch import nn

from mage_kit.layers.blocks import NORM_EPS
from mage_kit.losses import BatchMasks, Loss, LossInputs, LossTerm
from mage_kit.mask_ratios import FixedRatio
from mage_kit.models import Mage, MageClassifier


class ClassScores(Loss):
    """What stands on the encoder: the mean over the patches, LayerNorm, a linear layer.

    Args:
        dim: Encoder width.
        classes: Number of classes.
    """

    reads_predictions = False

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(dim, eps=NORM_EPS), nn.Linear(dim, classes)

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Return the sum of the scores: the cost of the softmax is none to speak of."""
        return LossTerm(self.head(self.norm(inputs.latents_BSD[:, 1:].mean(dim=1))).sum())

    def count(self, masks: BatchMasks) -> float:
        """Return the number of images."""
        return float(len(masks.ratio_B))


def as_masked(classifier: MageClassifier) -> Mage:
    """Return a masked model on the meta device that sees all tokens, as the classifier does, and has its layers."""
    model = Mage(
        tokenizer=classifier.tokenizer, encoder=classifier.encoder, decoder=None, padding=None,
        losses=[ClassScores(classifier.encoder.dim, classifier.classes)], mask_ratio=FixedRatio(ratio=0.0), drop=0.0,
        embedding=classifier.embedding.config, input=classifier.input,
    )  # fmt: skip
    if classifier.frozen:
        model.freeze_encoder()
    return model.to("meta")
