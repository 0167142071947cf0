"""MAGE-C's contrastive loss: InfoNCE between two views' mean features.

The gradient over processes. With unit rows z, an anchor a and its positive a', temperature t, gate g:

    L = sum over a of g_a l_a,    l_a = -z_a z_a' / t + log sum over others j of exp(z_a z_j / t)
    dl_a / dz_j = (softmax_j - [j = a']) z_a / t        dl_a / dz_a = sum over j of (softmax_j - [j = a']) z_j / t

So a row has a gradient as an anchor, from its own term, and as an "other", from everybody's terms. Process p computes
L_p, the terms of its own anchors, against the rows of all: L is the sum of the L_p, and what a row of process q gets
as an "other" is a sum over the processes. The gather's backward pass is that sum (all-reduce, then the own rows), so
that every process holds dL / dz of its own rows, and by the chain rule its part of dL / dw. The engine takes the mean
of these parts where the sum is meant: the task multiplies the loss by the number of processes.

Legend: B images (view after view), A images of this process (the anchors), I images of all processes, S kept
positions, D encoder width, P projection width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor, nn

from mage_kit.base.fields import Fraction, Positive, PositiveFloat
from mage_kit.layers.blocks import initialise
from mage_kit.layers.predictions import PassCost
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
        """Sum over this process's anchors, of both views; an image above the gate is multiplied by 0, never skipped."""
        assert inputs.masks.views == 2, "InfoNCE contrasts two views"
        pooled_BD = inputs.latents_BSD[:, 1:].float().mean(dim=1)
        projected_BP = F.normalize(self.projection(pooled_BD).float(), dim=-1)
        first_AP, second_AP = projected_BP.chunk(2)
        gate_A = self._gate(inputs.masks).to(projected_BP.device, non_blocking=True)
        labels_A = torch.arange(len(gate_A), device=gate_A.device) + inputs.gather.place(len(gate_A))
        with without_autocast(first_AP):  # similarities / 0.2 need float32
            first_IP, second_IP = inputs.gather(first_AP), inputs.gather(second_AP)
            logits = (
                self._logits(first_AP, first_IP, second_IP, labels_A),
                self._logits(second_AP, second_IP, first_IP, labels_A),
            )
        rows = sum(F.cross_entropy(view_logits, labels_A, reduction="none") for view_logits in logits)
        assert isinstance(rows, Tensor)
        return LossTerm((rows * gate_A).sum())

    def count(self, masks: BatchMasks) -> float:
        """Return the number of anchors: images at or below the gate, times two views."""
        return 2.0 * float(self._gate(masks).sum())

    def cost(self, inputs: LossInputs) -> PassCost:
        """Similarities of both views: 2 views x I anchors x (I or 2 I) others x P; the logits are kept."""
        images = len(inputs.latents_BSD) // 2
        others = images * (2 if self.negatives == "all" else 1)
        return PassCost(2.0 * 2 * images * others * self.output, 2, 8.0 * images * others)

    def _gate(self, masks: BatchMasks) -> Tensor:
        return (masks.ratio_B.chunk(2)[0] <= self.gate + _EDGE).to(torch.float32)

    def _logits(self, anchors_AP: Tensor, own_IP: Tensor, other_IP: Tensor, labels_A: Tensor) -> Tensor:
        """One view's anchors beside the other view (each positive at its label), then beside their own view."""
        cross_AI = anchors_AP @ other_IP.T / self.temperature
        if self.negatives == "cross_view":
            return cross_AI
        itself_AI = labels_A[:, None] == torch.arange(len(own_IP), device=labels_A.device)
        within_AI = anchors_AP @ own_IP.T / self.temperature
        return torch.cat([cross_AI, within_AI.masked_fill(itself_AI, torch.finfo(torch.float32).min)], dim=1)
