"""Groups of parameters, and layer-wise learning rates (Clark et al., 2020; BEiT): the nearer to the input, the slower.

Paper: supplement, Table 12. Legend: n blocks of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mage_kit.base.errors import MageKitError

_BLOCK = re.compile(r"(?:^|\.)encoder\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)embedding\.")


def rate_of(name: str, blocks: int, decay: float) -> float:
    """Return a parameter's factor: decay^(n + 1) for the embedding, decay^(n - i) for block i from 0, else 1.

    Args:
        name: Of the parameter in a model.
        blocks: Of its encoder, n.
        decay: Factor from one layer to the one before, in (0, 1].
    """
    match = _BLOCK.search(name)
    if match is not None:
        return decay ** (blocks - int(match.group(1)))
    return decay ** (blocks + 1) if _EMBEDDING.search(name) else 1.0


def has_blocks(names: Iterable[str]) -> bool:
    """Return whether parameters of encoder blocks are among those of such names, so that layer-wise rates differ."""
    return any(_BLOCK.search(name) for name in names)


def parameter_groups(parameters: Mapping[str, nn.Parameter], layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return a torch optimizer's groups, one for each rate, with and without weight decay.

    Args:
        parameters: By name.
        layer_decay: Factor of the rate from one layer to the one before; 1 for the same rate everywhere.

    Returns:
        Groups with "params", "rate" and "decays": false for 1-D tensors and biases.

    Raises:
        MageKitError: If rates are to differ, and no parameter is one of an encoder's blocks.
    """
    if layer_decay != 1 and not has_blocks(parameters):
        some = ", ".join(list(parameters)[:3])
        raise MageKitError(f"layer_decay: {layer_decay}, must be 1: none of {some} is in encoder.blocks.NUMBER")
    numbers = [int(match.group(1)) for name in parameters if (match := _BLOCK.search(name))]
    blocks = max(numbers, default=-1) + 1
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decays = parameter.ndim > 1 and not name.endswith("bias")
        groups.setdefault((rate_of(name, blocks, layer_decay), decays), []).append(parameter)
    return [{"params": members, "rate": rate, "decays": decays} for (rate, decays), members in groups.items()]
