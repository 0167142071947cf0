"""What a loss is: a sum over a batch, and the count to divide it by, known from the masks alone.

Sum and count are kept apart, so that micro-batches and processes can be added up before dividing.
Legend: B images (view after view), S kept positions, D encoder width, M loss rows, V codes, W token width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mage_kernels import MaskPlan
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import NonNegativeFloat
from mage_kit.base.grid import TokenSpec
from mage_kit.base.processes import gather_rows, rank, world
from mage_kit.base.registry import Registry
from mage_kit.layers.predictions import LossRows, PassCost


@dataclass(frozen=True)
class LossWires:
    """What the model wires into a loss: what the encoder sees, the encoder's width, and every stream by name."""

    spec: TokenSpec
    encoder_dim: int
    streams: Mapping[str, TokenSpec]


@dataclass(frozen=True)
class BatchMasks:
    """What is known of a batch's masks on the host, before any computation.

    Args:
        ratio_B: float64 CPU tensor, one ratio an image; views of an image share it.
        masked_tokens: Masked tokens in the whole batch.
        views: Views of each image in the batch, 1 or 2.
    """

    ratio_B: Tensor
    masked_tokens: int
    views: int


class Gather:
    """Joins a tensor over the processes of a run; a contrastive loss sees all images of the batch through it.

    Each process computes the loss of its own anchors against everybody's rows; the engine adds up the processes.
    """

    def __call__(self, tensor: Tensor) -> Tensor:
        """Concatenate along dimension 0, by rank, with gradients; shapes are the same in all processes."""
        return gather_rows(tensor)

    def place(self, count: int) -> int:
        """Return where this process's rows start in what `__call__` returns, `count` being the number of its rows."""
        return rank() * count if world() > 1 else 0


def _no_rows(predictions_MX: Tensor, targets_M: Tensor) -> LossRows:
    raise ValueError("loss: reads no predictions (reads_predictions is False), so there is nothing to judge")


@dataclass(frozen=True)
class LossInputs:
    """What the model hands to each loss.

    Args:
        predictions_MX: float32 predictions of the picked rows for the loss's stream, as its head gives them: logits
            (M, V) or values (M, W). Empty where the loss reads none.
        targets_M: The stream's tokens there: ids (M,), (M, F), or values (M, W).
        weight_M: 1 for a masked token, 0 for a padding row.
        latents_BSD: Encoder outputs after the final norm, class first.
        plan: The masks.
        masks: The masks' host side.
        gather: Joins tensors of all processes; on one process it gives back what it gets.
        streams: Every stream that some loss reads, whole: (B, L), (B, L, F) or (B, L, W).
        head_rows: What the stream's head itself takes predictions and targets to cost.
    """

    predictions_MX: Tensor
    targets_M: Tensor
    weight_M: Tensor
    latents_BSD: Tensor
    plan: MaskPlan
    masks: BatchMasks
    gather: Gather
    streams: Mapping[str, Tensor] = field(default_factory=dict)
    head_rows: Callable[[Tensor, Tensor], LossRows] = _no_rows

    def picked(self, stream: str) -> Tensor:
        """Return the tokens of a stream at the picked rows: (M,), (M, F) or (M, W).

        Raises:
            MageKitError: If no loss names the stream in `reads`.
        """
        if stream not in self.streams:
            names = ", ".join(self.streams)
            raise MageKitError(f"loss: stream '{stream}' is not at hand ({names}); name it in `reads`")
        return self.streams[stream].flatten(0, 1).index_select(0, self.plan.picked_M)


@dataclass(frozen=True)
class LossTerm:
    """A loss before division.

    Args:
        total: Sum, a scalar with a gradient; divide by the loss's `count`.
        rows_M: Loss of each row, detached, for statistics by mask ratio; None where rows make no sense.
        hits_M: 1 where a row's code was predicted, detached; None for continuous tokens.
    """

    total: Tensor
    rows_M: Tensor | None = None
    hits_M: Tensor | None = None


class Loss(nn.Module, ABC):
    """One term of the objective. May hold parameters: the model owns it and the optimiser sees it.

    Attributes:
        stream: Name of the stream whose hidden tokens it predicts; "tokens" are the model's own tokenizer's.
        needs_codes: True where that stream must be codes; False where it must not; None if either will do.
        needs_views: Smallest number of views a batch must hold.
        reads_predictions: False where the loss looks at features alone.
        contrasts_batch: True where images of a batch are each other's negatives, so that its size matters.
    """

    stream: str = "tokens"
    needs_codes: bool | None = None
    needs_views: int = 1
    reads_predictions: bool = True
    contrasts_batch: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the streams whose tokens it looks at; by default the one that it predicts."""
        return (self.stream,) if self.reads_predictions else ()

    @abstractmethod
    def forward(self, inputs: LossInputs) -> LossTerm:
        """Return the sum over the batch; no device synchronisation, every parameter gets a gradient."""

    def token_values(self, predictions: Tensor, tokens: Tensor) -> Tensor:
        """Return the continuous tokens that predictions stand for, where the loss compares them otherwise than plainly.

        Args:
            predictions: As the head gives them, (..., W).
            tokens: The true tokens, (..., W).
        """
        return predictions

    def cost(self, inputs: LossInputs) -> PassCost:
        """Return what a pass costs beside linear layers, norms and the predictions that are read."""
        return PassCost()

    @abstractmethod
    def count(self, masks: BatchMasks) -> float:
        """Return what the sum is divided by; may be 0 where nothing counts."""


def check_term(loss: Loss, term: object, inputs: LossInputs) -> LossTerm:
    """Make sure that a loss gave what the model goes on with.

    Args:
        loss: The loss.
        term: What it returned.
        inputs: What it was given.

    Raises:
        MageKitError: If it is no LossTerm, its total no scalar, or its rows and hits are not one a picked row.
    """
    name = type(loss).__name__
    if not isinstance(term, LossTerm):
        raise MageKitError(f"{name}: gave a {type(term).__name__}, must give a LossTerm")
    if not isinstance(term.total, Tensor) or term.total.ndim:
        has = tuple(term.total.shape) if isinstance(term.total, Tensor) else type(term.total).__name__
        raise MageKitError(f"{name}: total of shape {has}, must be a scalar tensor, ()")
    for field_name, value in (("rows_M", term.rows_M), ("hits_M", term.hits_M)):
        if value is not None and value.shape != inputs.weight_M.shape:
            rule = f"must be {tuple(inputs.weight_M.shape)}, or None"
            raise MageKitError(f"{name}: {field_name} of shape {tuple(value.shape)}, {rule}")
    return term


LOSSES: Registry[Loss, LossWires] = Registry(
    "losses",
    Loss,
    LossWires,
    slot_fields={"weight": (NonNegativeFloat, Field(description="Factor of this loss in the total (lambda)."))},
)
