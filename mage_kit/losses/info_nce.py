"""MAGE-C's contrastive loss: InfoNCE between two views' mean features.

Legend: B images (view after view), I images of one view, S kept positions, D encoder width, P projection width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor, nn

from mage_kit.blocks import initialise
from mage_kit.fields import Fraction, Positive, PositiveFloat
from mage_kit.losses.base import LOSSES, BatchMasks, Loss, LossInputs, LossTerm

_EDGE = 1e-9  # the gate includes its own bound, at which a truncated distribution may sit


@LOSSES.register("info_nce")
class InfoNCE(Loss):
    """InfoNCE over two views of each image, for images masked little enough (paper section 3.1, equation 2).

    The paper gives neither the projection's widths, nor its norm, nor which views count as negatives:
    `hidden`, `output` and `negatives` are this project's choices.

    Args:
        temperature: Divides the cosine similarities; 0.2 in the paper.
        gate: Only images whose mask ratio is at most this take part; 0.6 in the paper.
        hidden: Hidden width of the projection.
        output: Output width of the projection.
        negatives: "all" for both views of the other images (2I - 2, as SimCLR), "cross_view" for the other view
            alone (equation 2 read literally).
    """

    needs_views = 2
    reads_predictions = False
    contrasts_batch = True

    def __init__(
        self,
        encoder_dim: int,
        *,
        temperature: PositiveFloat = 0.2,
        gate: Fraction = 0.6,
        hidden: Positive = 2048,
        output: Positive = 256,
        negatives: Literal["all", "cross_view"] = "all",
    ) -> None:
        super().__init__()
        self.encoder_dim = encoder_dim
        self.temperature, self.gate, self.hidden, self.output, self.negatives = (
            temperature,
            gate,
            hidden,
            output,
            negatives,
        )
        self.projection = nn.Sequential(
            nn.Linear(encoder_dim, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, output)
        )
        initialise(self)

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Sum over both views' anchors; an image above the gate is multiplied by 0, never skipped."""
        assert inputs.masks.views == 2, "InfoNCE contrasts two views"
        pooled_BD = inputs.latents_BSD[:, 1:].float().mean(dim=1)
        projected_BP = F.normalize(self.projection(pooled_BD).float(), dim=-1)
        first_IP, second_IP = (inputs.gather(view) for view in projected_BP.chunk(2))
        gate_I = inputs.gather(self._gate(inputs.masks).to(projected_BP.device, non_blocking=True))
        with without_autocast(first_IP):  # similarities / 0.2 need float32
            logits = self._logits(first_IP, second_IP)
        labels = torch.arange(len(gate_I), device=logits[0].device)
        rows = sum(F.cross_entropy(view_logits, labels, reduction="none") for view_logits in logits)
        assert isinstance(rows, Tensor)
        return LossTerm((rows * gate_I).sum())

    def count(self, masks: BatchMasks) -> float:
        """Return the number of anchors: images at or below the gate, times two views."""
        return 2.0 * float(self._gate(masks).sum())

    def _gate(self, masks: BatchMasks) -> Tensor:
        return (masks.ratio_B.chunk(2)[0] <= self.gate + _EDGE).to(torch.float32)

    def _logits(self, first_IP: Tensor, second_IP: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities of each view's anchors: positives on the diagonal of the first I columns."""
        cross_II = first_IP @ second_IP.T / self.temperature
        if self.negatives == "cross_view":
            return cross_II, cross_II.T
        own = torch.eye(len(first_IP), dtype=torch.bool, device=first_IP.device)
        within = (
            (view_IP @ view_IP.T / self.temperature).masked_fill(own, torch.finfo(torch.float32).min)
            for view_IP in (first_IP, second_IP)
        )
        first_II, second_II = within
        return torch.cat([cross_II, first_II], dim=1), torch.cat([cross_II.T, second_II], dim=1)
