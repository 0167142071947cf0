"""Selections: which of the freshly sampled tokens are kept at a decoding step."""

from mage_kit.layers.predictions import Predictions
from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep
from mage_kit.selections.entropy import Entropy
from mage_kit.selections.gumbel_confidence import GumbelConfidence
from mage_kit.selections.halton import Halton
from mage_kit.selections.margin import Margin
from mage_kit.selections.purity import Purity
from mage_kit.selections.random import RandomSelection

__all__ = [
    "SELECTIONS",
    "Entropy",
    "GumbelConfidence",
    "Halton",
    "Margin",
    "Predictions",
    "Purity",
    "RandomSelection",
    "Selection",
    "SelectionStep",
]
