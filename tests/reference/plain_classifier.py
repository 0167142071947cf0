"""A fine-tuned classifier's forward pass and one AdamW step, written out from a state dict with plain functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


def plain_logits(weights: Tensors, ids_BL: Tensor, heads: int, blocks: int) -> Tensor:
    """Embed, add positions, norm, blocks, mean over patches, norm, linear: no dropout, all tokens."""
    table = weights["embedding.table"]
    rows = torch.cat([torch.full((len(ids_BL), 1), len(table) - 1), ids_BL], dim=1)  # the class row is the last one
    x = table[rows] + weights["embedding.positions_ND"]
    x = plain_norm(x, weights, "embedding.norm")
    for number in range(blocks):
        name = f"encoder.blocks.{number}"
        x = x + plain_attention(plain_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", heads)
        hidden = plain_linear(plain_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + plain_linear(gelu, weights, f"{name}.mlp.fc2")
    return plain_linear(plain_norm(x[:, 1:].mean(dim=1), weights, "norm"), weights, "head")


def plain_attention(x: Tensor, weights: Tensors, name: str, heads: int) -> Tensor:
    """Multi-head attention, head by head."""
    width = x.shape[-1]
    each = width // heads
    query, key, value = plain_linear(x, weights, f"{name}.qkv").split(width, dim=-1)
    mixed = []
    for head in range(heads):
        part = slice(head * each, (head + 1) * each)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(each)
        shares = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        mixed.append(shares @ value[..., part])
    return plain_linear(torch.cat(mixed, dim=-1), weights, f"{name}.proj")


def plain_linear(x: Tensor, weights: Tensors, name: str) -> Tensor:
    """x W^T + b."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_norm(x: Tensor, weights: Tensors, name: str) -> Tensor:
    """LayerNorm with eps 1e-6."""
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def plain_targets(labels: list[int], classes: int, smoothing: float, own: float) -> Tensor:
    """Smoothed one-hot rows, mixed with those of the neighbour in the pair."""
    rows = []
    for place, label in enumerate(labels):
        row = [0.0] * classes
        for share, wanted in ((own, label), (1 - own, labels[place ^ 1])):
            for number in range(classes):
                row[number] += share * (smoothing / classes + (1 - smoothing if number == wanted else 0.0))
        rows.append(row)
    return torch.tensor(rows)


def plain_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of -sum of wanted x log softmax."""
    return -(wanted * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def first_adamw_step(weight: Tensor, gradient: Tensor, lr: float, decay: float, betas: tuple[float, float]) -> Tensor:
    """Return a weight after the first step of AdamW (eps 1e-8)."""
    first = (1 - betas[0]) * gradient / (1 - betas[0])
    second = (1 - betas[1]) * gradient.square() / (1 - betas[1])
    return weight * (1 - lr * decay) - lr * first / (second.sqrt() + 1e-8)
