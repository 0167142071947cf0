"""MaskPlan: which tokens are masked, dropped, kept, and where they go; computed once a batch, read by all.

Legend: B images, L tokens of the grid, N = 1 + L positions (class first), S = 1 + kept tokens (class first),
M rows of the loss. `True = masked`, everywhere. Paper: section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskPlan:
    """The masks of one batch, exact under ties and free of device synchronisation.

    Args:
        rank_BL: int64, place of each token in its image's total order of (noise, index).
        masked_BL: bool, True where the token is hidden from the model and predicted.
        kept_BS: int64, positions that the encoder sees, in grid order, the class position 0 first.
        slot_BN: int64, for each position its place among the encoder's outputs; 0 for the class position
            and for every dropped one.
        n_masked_B: int64, masked tokens an image, on the batch's device.
        picked_M: int64, flat indices (image * L + token) of the masked tokens, image by image, padded.
        weight_M: float32, 1 for a masked token, 0 for a padding row.
        total: Number of masked tokens in the batch, known on the host.
    """

    rank_BL: Tensor
    masked_BL: Tensor
    kept_BS: Tensor
    slot_BN: Tensor
    n_masked_B: Tensor
    picked_M: Tensor
    weight_M: Tensor
    total: int

    @property
    def visible_BN(self) -> Tensor:
        """bool, True where a position's own feature reaches the decoder: kept and not masked."""
        return (self.slot_BN > 0) & ~torch.nn.functional.pad(self.masked_BL, (1, 0))


def make_plan(noise_BL: Tensor, n_masked_B: Tensor, n_dropped: int, *, rows_step: int = 1) -> MaskPlan:
    """Build the plan of a batch: masked = the n_masked lowest noise values of a row, dropped = the n_dropped lowest.

    Args:
        noise_BL: Floating noise on the target device; ties are broken by the index.
        n_masked_B: int64 counts on the CPU, so that sizes are known without asking the device.
        n_dropped: Tokens dropped from each image, at most the smallest count: dropped is a subset of masked.
        rows_step: The number of loss rows is rounded up to a multiple of this, with rows of weight 0, so that
            compiled code sees few shapes.

    Raises:
        ValueError: If a count lies outside [n_dropped, L], the batch is empty, or a number breaks its rule.
    """
    batch, length = noise_BL.shape
    device = noise_BL.device
    if not batch or len(n_masked_B) != batch:
        raise ValueError(f"n_masked: {len(n_masked_B)} counts for {batch} images, must be one each, at least one")
    if n_dropped < 0 or rows_step < 1:
        raise ValueError(f"n_dropped: {n_dropped}, rows_step: {rows_step}, must be at least 0 and at least 1")
    counts = n_masked_B.tolist()
    if min(counts) < n_dropped or max(counts) > length:
        raise ValueError(
            f"n_masked: {min(counts)} to {max(counts)} an image, must lie between n_dropped ({n_dropped}) and {length}"
        )
    total = sum(counts)
    order_BL = noise_BL.argsort(dim=1, stable=True)
    place_BL = torch.arange(length, device=device).expand(batch, length)
    rank_BL = torch.empty_like(order_BL).scatter_(1, order_BL, place_BL)
    on_device_B = n_masked_B.to(device, non_blocking=True)
    masked_BL = rank_BL < on_device_B[:, None]
    kept_BS, slot_BN = _keep(rank_BL >= n_dropped, length - n_dropped)
    rows = min(-(-max(total, 1) // rows_step) * rows_step, batch * length)
    picked_M = (~masked_BL).flatten().to(torch.uint8).argsort(stable=True)[:rows]
    weight_M = (torch.arange(rows, device=device) < total).to(torch.float32)
    return MaskPlan(rank_BL, masked_BL, kept_BS, slot_BN, on_device_B, picked_M, weight_M, total)


def full_plan(masked_BL: Tensor) -> MaskPlan:
    """Build the plan that drops nothing, for decoding: every position is seen, the masked ones as mask tokens.

    All tokens stand in `picked_M`, in order, with weight 1 where they are masked; `total` is their number.

    Args:
        masked_BL: bool, True where the token is unknown.
    """
    batch, length = masked_BL.shape
    device = masked_BL.device
    place_BN = torch.arange(1 + length, device=device).expand(batch, -1)
    n_masked_B = masked_BL.sum(dim=1)
    after_BL = n_masked_B[:, None] + (~masked_BL).cumsum(dim=1) - 1
    rank_BL = torch.where(masked_BL, masked_BL.cumsum(dim=1) - 1, after_BL)
    picked_M = torch.arange(batch * length, device=device)
    weight_M = masked_BL.flatten().to(torch.float32)
    return MaskPlan(rank_BL, masked_BL, place_BN, place_BN, n_masked_B, picked_M, weight_M, batch * length)


def _keep(keep_BL: Tensor, n_kept: int) -> tuple[Tensor, Tensor]:
    """Positions kept, in order, and the slot of every position; exactly `n_kept` are True in each row."""
    kept_BK = (~keep_BL).to(torch.uint8).argsort(dim=1, stable=True)[:, :n_kept] + 1
    kept_BS = torch.nn.functional.pad(kept_BK, (1, 0))
    slot_BL = torch.where(keep_BL, keep_BL.to(torch.int64).cumsum(dim=1), 0)
    return kept_BS, torch.nn.functional.pad(slot_BL, (1, 0))
