"""SimVQ (Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer").

A gradient moves only the codes that a batch uses, and the others fall behind for good. Here the table stays as it was
drawn, and one layer over it learns: every code moves with every step. The layer has a bias, so that the codes can go
where the features lie.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mage_kit.quantizers.base import QUANTIZERS
from mage_kit.quantizers.learned_codes import GradientCodebook


@QUANTIZERS.register("simvq")
class SimVQ(GradientCodebook):
    """A frozen table of N(0, 1 / W) codes, through one linear layer that is learned."""

    alike = frozenset({"simvq"})

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)
        self.embedding.weight.requires_grad_(False)
        self.projection = nn.Linear(self.width, self.width)

    def start_training(self) -> None:
        """The table stays."""
        self.embedding.requires_grad_(False)

    def table(self) -> Tensor:
        """Return the codes (V, W)."""
        codes_VW: Tensor = self.projection(self.embedding.weight)
        return codes_VW

    def rows(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W) of ids, before `prepare`."""
        codes_BLW: Tensor = self.projection(self.embedding(ids_BL))
        return codes_BLW
