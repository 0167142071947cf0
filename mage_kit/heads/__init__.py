"""Heads: from decoder features to predictions of a stream's tokens."""

from mage_kit.heads.base import HEADS, Head, HeadWires
from mage_kit.heads.codes import CodeHead
from mage_kit.heads.values import ValueHead

__all__ = ["HEADS", "CodeHead", "Head", "HeadWires", "ValueHead"]
