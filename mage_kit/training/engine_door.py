"""The way to the engine: it brings lightning, which importing mage_kit must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mage_kit.base.errors import MissingExtraError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def engine_maker() -> Callable[[torch.device, bool, bool], Fabric]:
    """Return `engine.make_fabric`.

    Raises:
        MissingExtraError: If lightning is not installed.
    """
    try:
        from mage_kit.training.engine import make_fabric
    except ImportError as error:
        if not (error.name or "").startswith("lightning"):
            raise
        raise MissingExtraError("training", "train") from None
    return make_fabric
