"""Losses: what is asked of the predictions and of the features."""

from mage_kit.losses.base import LOSSES, BatchMasks, Gather, Loss, LossInputs, LossTerm, LossWires, check_term
from mage_kit.losses.info_nce import InfoNCE
from mage_kit.losses.masked_cross_entropy import MaskedCrossEntropy
from mage_kit.losses.masked_mse import MaskedMSE
from mage_kit.losses.masked_prediction import MaskedPrediction

__all__ = [
    "LOSSES",
    "BatchMasks",
    "Gather",
    "InfoNCE",
    "Loss",
    "LossInputs",
    "LossTerm",
    "LossWires",
    "MaskedCrossEntropy",
    "MaskedMSE",
    "MaskedPrediction",
    "check_term",
]
