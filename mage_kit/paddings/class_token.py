"""MAGE's padding: the image's own class feature [C]."""

from __future__ import annotations

from mage_kernels import MaskPlan, pad_tokens
from torch import Tensor

from mage_kit.paddings.base import PADDINGS, Padding, slots


@PADDINGS.register("class_token")
class ClassTokenPadding(Padding):
    """Fills with the image's class-token feature [C]: the decoder sees its global features (paper 3.1, Table 3).

    Args:
        replace_seen: Also replace masked tokens that the encoder did see, as MAGE does; false keeps what the
            encoder made of them, which a decoder without depth (MaskGIT's form) depends on.
    """

    informed = True

    def __init__(self, *, replace_seen: bool = True) -> None:
        super().__init__()
        self.replace_seen = replace_seen

    def forward(self, latents_BSE: Tensor, plan: MaskPlan, positions_NE: Tensor) -> Tensor:
        """(B, S, E) -> (B, N, E)."""
        return pad_tokens(latents_BSE, slots(plan, self.replace_seen), positions_NE, backend=self.backend)
