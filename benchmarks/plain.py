"""The operations as plain torch, the way published code writes them: what the kernels are compared with.

Legend: B images, N = 1 + L positions, S kept positions, D and E widths, V codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def embed(rows: Tensor, keep: Tensor, table: Tensor, positions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed all positions, norm them, then drop by a boolean mask (B, N): (B, S, D)."""
    whole = F.layer_norm(F.embedding(rows, table) + positions, (table.shape[1],), weight, bias, 1e-6)
    return whole[keep].reshape(len(rows), -1, table.shape[1])


def pad(latents: Tensor, keep: Tensor, positions: Tensor) -> Tensor:
    """Repeat the class feature over the grid, then write the kept ones by a boolean mask: (B, N, E)."""
    padded = latents[:, :1].repeat(1, keep.shape[1], 1)
    padded[keep] = latents.reshape(-1, latents.shape[-1])
    return padded + positions


def sample(logits: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a code a position and take its log-probability."""
    logits = logits.float()
    ids = torch.distributions.Categorical(logits=logits).sample()
    return ids, logits.softmax(dim=-1).gather(-1, ids[..., None])[..., 0].log()


def remask(score: Tensor, masked: Tensor, count: int) -> Tensor:
    """Sort the scores; the lowest `count` stay masked, one count for the batch."""
    score = torch.where(masked, score, torch.inf)
    return score <= score.sort(dim=1).values[:, count - 1 : count]


def attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Explicit softmax attention with float32 logits."""
    with torch.autocast(query.device.type, enabled=False):
        logits = (query.float() @ key.float().transpose(-2, -1)) * query.shape[-1] ** -0.5
    return F.dropout(logits.softmax(dim=-1), dropout).to(value.dtype) @ value


def plan(noise: Tensor, dropped: int, masked: int) -> tuple[Tensor, Tensor]:
    """Sort the noise and compare with two cutoffs."""
    ordered = noise.sort(dim=1).values
    return noise <= ordered[:, dropped - 1 : dropped], noise <= ordered[:, masked - 1 : masked]
