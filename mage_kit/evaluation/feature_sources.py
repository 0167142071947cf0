"""Where features come from: which block, the patches' mean or the class token, before or after the norm.

Paper: supplement, "ViT architecture": the mean over the patch positions of the last block, before the norm. Legend:
B images, N positions (class first), D encoder width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mage_kit.layers.embedding import open_plan
from mage_kit.models.mage import Mage

_FORM = re.compile(r"(mean|class)(?:@([1-9]\d{0,3}))?(\+norm)?")


@dataclass(frozen=True)
class FeatureSource:
    """One kind of features of an image, always from all tokens, nothing masked or dropped.

    Args:
        pool: "mean" over the patch positions, or the "class" position.
        block: After which block, from 1; None for the last.
        norm: Whether the encoder's final norm comes first.
    """

    pool: Literal["mean", "class"] = "mean"
    block: int | None = None
    norm: bool = False

    def __str__(self) -> str:
        """As it is written on the command line: mean, class@3, mean+norm."""
        return self.pool + (f"@{self.block}" if self.block else "") + ("+norm" if self.norm else "")

    @classmethod
    def parse(cls, text: str) -> FeatureSource:
        """Read one.

        Raises:
            ValueError: If it is not written so.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"source: '{text}', must be mean or class, then @BLOCK (from 1) or nothing, then +norm or nothing"
            )
        pool, block, norm = match.groups()
        return cls(pool, int(block) if block else None, norm is not None)  # type: ignore[arg-type]  # of the pattern


def check_sources(model: Mage, sources: Sequence[FeatureSource]) -> None:
    """Raise ValueError if a source names a block that the encoder does not have."""
    blocks = len(getattr(model.encoder, "blocks", [None]))
    for source in sources:
        if source.block is not None and not 1 <= source.block <= blocks:
            raise ValueError(f"source: '{source}', the encoder has {blocks} blocks, must be one of these from 1")


def pool_features(model: Mage, tokens: Tensor, sources: Sequence[FeatureSource]) -> list[Tensor]:
    """Return features (B, D), float32, of each source, from one pass.

    Args:
        model: In evaluation mode.
        tokens: Ids (B, L), or continuous tokens (B, L, W).
        sources: Which ones.
    """
    outputs = model.encoder.outputs(model.embedding(tokens, open_plan(tokens)))
    features = []
    for source in sources:
        hidden_BND = outputs[(source.block or len(outputs)) - 1]
        hidden_BND = model.encoder.norm(hidden_BND) if source.norm else hidden_BND
        first_BD = hidden_BND[:, 0].float().contiguous()  # a view would hold all positions in memory
        features.append(first_BD if source.pool == "class" else hidden_BND[:, 1:].float().mean(dim=1))
    return features
