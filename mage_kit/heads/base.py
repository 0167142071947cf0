"""What a head is: from decoder features to predictions of one stream's tokens, the loss of these, and draws from them.

Generation, planning and the rules between parts ask the head, and nothing else, what its tokens are like.
Legend: M rows (masked tokens), E decoder width, D encoder width, X values of a prediction, B images, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.grid import TokenSpec
from mage_kit.base.registry import Registry
from mage_kit.layers.embedding import TokenEmbedding
from mage_kit.layers.predictions import DrawRule, LossRows, PassCost, TokenDraw


@dataclass(frozen=True)
class HeadWires:
    """What the model wires into a head.

    Args:
        spec: Of the stream that it predicts.
        decoder_dim: Width E.
        encoder_dim: Width D, that of the embedding's table.
        is_input: Whether the encoder sees the same stream, so that the embedding's table is its codes.
    """

    spec: TokenSpec
    decoder_dim: int
    encoder_dim: int
    is_input: bool


class Head(nn.Module, ABC):
    """Predicts the tokens of one stream.

    Attributes:
        spec: Of the stream.
        needs_codes: True where its tokens must be codes; False where they must not; None if either will do.
        draws: Whether tokens can be drawn from its predictions: without, a model generates nothing.
        gives_logits: Whether its predictions are logits over codes, as cross entropy and guidance need them.
        gives_values: Whether its predictions are the tokens' values themselves.
        gives_predictions: Whether `draw` fills in `Predictions`, which some selections read.
    """

    spec: TokenSpec
    needs_codes: ClassVar[bool | None] = None
    draws: ClassVar[bool] = False
    gives_logits: ClassVar[bool] = False
    gives_values: ClassVar[bool] = False
    gives_predictions: ClassVar[bool] = False

    @property
    def gives_log_p(self) -> bool:
        """Whether it knows the log-probability of given tokens: it writes `log_p`."""
        return type(self).log_p is not Head.log_p

    @abstractmethod
    def forward(self, features_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        """Return predictions (..., X) of features (..., E): whatever `rows` and `draw` read."""

    @abstractmethod
    def rows(self, predictions_MX: Tensor, targets_M: Tensor) -> LossRows:
        """Return the head's own loss, in float32.

        Args:
            predictions_MX: As `forward` gives them.
            targets_M: Tokens (M,), (M, F) or (M, W).
        """

    def draw(self, predictions_BLX: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None, rule: DrawRule) -> TokenDraw:
        """Draw a token for each unknown place.

        Args:
            predictions_BLX: As `forward` gives them.
            uniform_BL: One number in (0, 1) a token.
            masked_BL: bool, where tokens are unknown; None for everywhere.
            rule: How.

        Raises:
            MageKitError: If nothing can be drawn from this head.
        """
        raise MageKitError(f"head: nothing can be drawn from {type(self).__name__}")

    def log_p(self, predictions_BLX: Tensor, ids_BL: Tensor) -> Tensor:
        """Return the log-probability (B, L), float32, of given tokens; selections that revise tokens ask for it.

        Raises:
            MageKitError: If the head has no probabilities.
        """
        raise MageKitError(f"head: {type(self).__name__} has no probabilities")

    def cost(self, rows: float, low: int) -> PassCost:
        """Return what a pass over so many rows costs, `low` being the bytes of a value in products."""
        return PassCost()


def checked_rows(head: Head, predictions_MX: Tensor, targets_M: Tensor) -> LossRows:
    """Return a head's own loss, of the shapes that it must have.

    Args:
        head: The head.
        predictions_MX: As its `forward` gives them.
        targets_M: Tokens (M,), (M, F) or (M, W).

    Raises:
        MageKitError: If it is no LossRows, or rows or hits are not one a prediction.
    """
    rows = head.rows(predictions_MX, targets_M)
    name, count = type(head).__name__, (len(predictions_MX),)
    if not isinstance(rows, LossRows):
        raise MageKitError(f"{name}: rows gave a {type(rows).__name__}, must give LossRows")
    for field_name, value in (("rows_M", rows.rows_M), ("hits_M", rows.hits_M)):
        if value is not None and tuple(value.shape) != count:
            raise MageKitError(f"{name}: {field_name} of shape {tuple(value.shape)}, must be {count}")
    return rows


HEADS: Registry[Head, HeadWires] = Registry("heads", Head, HeadWires)
