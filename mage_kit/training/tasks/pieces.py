"""What a masked model computes at once of a step."""

from __future__ import annotations

from collections.abc import Mapping

from mage_kernels import MaskPlan
from torch import Tensor

from mage_kit.layers.condition import Condition
from mage_kit.losses import BatchMasks


class Piece:
    """What is computed at once; a plain class, so that engine wrappers hand it on untouched.

    Args:
        content: uint8 images, or tokens of a cache; see `Batch`.
        masks: The masks' host side.
        noise_TL: What masks follow, on the device.
        condition: Labels of conditional models.
        counts: What each loss's sum over the whole step is divided by.
        parts: Passes of the step, over all processes.

    Attributes:
        tokens: Streams by name, once it is prepared.
        plan: The masks on the device, once it is prepared.
        uniforms_BU: What changes of pictures follow, where a task judges some.
        filled_BCHW: Pictures with predictions in them, where a task judges some.
    """

    def __init__(
        self,
        content: Mapping[str, Tensor],
        masks: BatchMasks,
        noise_TL: Tensor,
        condition: Condition | None,
        counts: list[float],
        parts: int,
    ) -> None:
        self.content, self.masks, self.noise_TL, self.condition = content, masks, noise_TL, condition
        self.counts, self.parts = counts, parts
        self.tokens: Mapping[str, Tensor]
        self.plan: MaskPlan
        self.uniforms_BU: Tensor
        self.filled_BCHW: Tensor
