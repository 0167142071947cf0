"""Where imported weights came from: what is kept so that export can give it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Origin:
    """Where weights came from.

    Args:
        card: Source file, layout, dtypes, and what became of each tensor.
        unused: Tensors of the source that nothing here reads, as they stood there; of tables with unused rows the
            whole.
    """

    card: dict[str, Any]
    unused: dict[str, Tensor]
