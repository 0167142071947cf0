"""What a quantizer is: features to codes and back, and what it learns by; a slot of the tokenizers.

Legend: B images, L tokens, V codes, W width of features and codes, F ids a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig, NoWires


@dataclass(frozen=True)
class Quantized:
    """Features, quantized in training.

    Args:
        codes_BLW: The codes, with gradients that reach the features straight through.
        ids_BL: int64 ids (B, L), or (B, L, F) where a token has F of them.
        loss: Scalar: what the quantizer adds to the tokenizer's total.
        parts: Named scalars for the log, detached.
    """

    codes_BLW: Tensor
    ids_BL: Tensor
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module, ABC):
    """Turns features into codes.

    Attributes:
        codes: Codes that an id may name, V.
        width: Width of features and codes, W.
        factors: Ids a token, F.
        weightless: Keywords that weights fit whatever they say, as those of training alone.
        alike: Kinds that read one another's weights, its own among them; a subclass of another kind is none of them.
        passing: Names of buffers that training alone needs; they are not stored.
    """

    codes: int
    width: int
    factors: int = 1
    weightless: ClassVar[frozenset[str]] = frozenset()
    alike: ClassVar[frozenset[str]] = frozenset()
    passing: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def nearest(self, features_BLW: Tensor) -> Tensor:
        """Return the ids of the features' codes, int64 (B, L) or (B, L, F), without gradients."""

    @abstractmethod
    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W) of ids (B, L) or (B, L, F)."""

    @abstractmethod
    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Quantize in training.

        Args:
            features_BLW: float32, with gradients.
            progress: Share of the training done, in [0, 1).
            random: Source of all draws.
        """

    def prepare(self, features: Tensor) -> Tensor:
        """Return features (..., W) as they are compared with codes; the stream of features gives them so."""
        return features

    def means(self, weights_BLV: Tensor) -> Tensor:
        """Return weighted means of codes (B, L, W).

        Args:
            weights_BLV: Floating weights of each code.

        Raises:
            MageKitError: If there are no codes to take means of.
        """
        raise MageKitError(f"quantizer: {type(self).__name__} has no codebook to take means of")

    def start_training(self) -> None:
        """Register what training alone needs; `requires_grad_` has been called on all of it."""

    def finish_training(self) -> None:
        """Forget it."""


QUANTIZERS: Registry[Quantizer, NoWires] = Registry("quantizers", Quantizer, NoWires)

QuantizerSlot = Annotated[Any, QUANTIZERS.slot()]
"""A keyword that holds a quantizer: its recipe form, or in Python the quantizer itself."""


def build_quantizer(config: ComponentConfig) -> Quantizer:
    """Return the quantizer that a recipe form describes."""
    return QUANTIZERS.build(config, NoWires())


def quantizer_sizes(value: ComponentConfig | Quantizer) -> tuple[ComponentConfig, Quantizer]:
    """Return a quantizer's recipe form, and one without memory that knows its sizes.

    Args:
        value: The recipe form, or in Python the quantizer itself.

    Raises:
        MageKitError: If it is neither, or of a class that is not registered.
    """
    if isinstance(value, Quantizer):
        return QUANTIZERS.parse(QUANTIZERS.describe(value)), value
    if not isinstance(value, ComponentConfig):
        raise MageKitError(f"quantizer: {value!r}, must be a Quantizer or its recipe form")
    with torch.device("meta"):
        return value, build_quantizer(value)
