"""Selections: which of the freshly sampled tokens are kept at a decoding step."""

from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep
from mage_kit.selections.gumbel_confidence import GumbelConfidence
from mage_kit.selections.halton import Halton
from mage_kit.selections.random import RandomSelection

__all__ = ["SELECTIONS", "GumbelConfidence", "Halton", "RandomSelection", "Selection", "SelectionStep"]
