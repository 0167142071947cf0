"""Layer-wise learning rates (Clark et al., 2020; BEiT): the nearer to the input, the slower.

Paper: supplement, Table 12. Legend: n blocks of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

_BLOCK = re.compile(r"(?:^|\.)encoder\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)embedding\.")


def rate_of(name: str, blocks: int, decay: float) -> float:
    """Return a parameter's factor: decay^(n + 1) for the embedding, decay^(n - i) for block i from 0, else 1.

    Args:
        name: Of the parameter in a classifier.
        blocks: Of its encoder, n.
        decay: Factor from one layer to the one before, in (0, 1].
    """
    match = _BLOCK.search(name)
    if match is not None:
        return decay ** (blocks - int(match.group(1)))
    return decay ** (blocks + 1) if _EMBEDDING.search(name) else 1.0


def layer_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], blocks: int, decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return an optimiser's groups: one for each rate, with and without weight decay (none on 1-D tensors).

    Args:
        parameters: By name.
        blocks: Of the encoder.
        decay: Factor from one layer to the one before; 1 for the same rate everywhere.
        weight_decay: Of matrices, embeddings and positions.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        plain = parameter.ndim <= 1 or name.endswith("bias")
        groups.setdefault((rate_of(name, blocks, decay), plain), []).append(parameter)
    return [
        {"params": members, "weight_decay": 0.0 if plain else weight_decay, "rate": rate}
        for (rate, plain), members in groups.items()
    ]
