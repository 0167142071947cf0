"""How the transformer blocks of a model run: attention's form, compiled, recomputed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from mage_kernels.attention import Implementation
from torch import nn

from mage_kit.layers.blocks import Block, Blocks, SelfAttention


class WithBlocks(nn.Module):
    """A model with transformer blocks in it.

    Attributes:
        attention: The form asked for; "auto" leaves it to rule and measurement.
    """

    attention: Implementation | Literal["auto"] = "auto"

    def set_attention(
        self, implementation: Implementation, inference: Implementation | None = None, part: nn.Module | None = None
    ) -> None:
        """Choose the attention form of blocks.

        Args:
            implementation: Where gradients are computed.
            inference: Where they are not; None for the same.
            part: The part whose blocks are meant, as `model.decoder`; None for all.
        """
        for module in (part or self).modules():
            if isinstance(module, SelfAttention):
                module.implementation, module.inference = implementation, inference or implementation

    def ask_attention(self, attention: Implementation | Literal["auto"]) -> None:
        """Name the attention form of all blocks, training and generation; "auto" leaves it to rule and measurement."""
        self.attention = attention
        if attention != "auto":
            self.set_attention(attention)

    def set_recomputation(self, recompute: bool) -> int:
        """Choose whether blocks keep their inputs alone for the backward pass (gradient checkpointing).

        Returns:
            How many blocks follow: those of our own parts; a plug-in's do as it says.
        """
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for block in blocks:
            block.recompute = recompute
        return len(blocks)

    def set_residual(self, dtype: torch.dtype) -> int:
        """Choose the dtype of the sums along the blocks in training: float32, or bfloat16 under autocast.

        A bfloat16 sum halves what norms and additions read and write, most of a GPU's time beside the products; it
        keeps 8 bits of each sum. Parameters and statistics of norms stay float32.

        Returns:
            How many rows of blocks there are.
        """
        rows = [module for module in self.modules() if isinstance(module, Blocks)]
        for row in rows:
            row.narrow = dtype == torch.bfloat16
        return len(rows)

    def compile_training(self, **options: Any) -> int:
        """Have torch compile what transformer blocks do where gradients are computed, at their first pass.

        Blocks of one shape share the work: encoder and decoder take a graph each. Without gradients, as when samples
        are drawn on the way, blocks run as they are written: other shapes would be compiled for a moment's use.

        Args:
            options: Of torch.compile.

        Returns:
            How many blocks there are.
        """
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        # DDP's own optimizer would cut each block where its gradients fill a bucket; one block at a time they overlap.
        torch._dynamo.config.optimize_ddp = False
        # Sizes are constants: otherwise the decoder's would teach torch, after the encoder's, that sizes vary.
        compiled = torch.compile(Block.run, **{"dynamic": False, **options})
        for block in blocks:
            block.compiled = compiled
        return len(blocks)

    def compile_blocks(self, **options: Any) -> int:
        """Have torch compile every transformer block, at its first call; blocks of one shape share the work.

        Args:
            options: Of torch.compile.

        Returns:
            How many blocks there are.
        """
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for block in blocks:
            block.compile(**options)
        return len(blocks)


@contextlib.contextmanager
def as_written(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run blocks as they are written for the while: what hooks on their parts would miss in compiled code."""
    blocks = [part for module in modules for part in module.modules() if isinstance(part, Block)]
    before = [block.compiled for block in blocks]
    for block in blocks:
        block.compiled = None
    try:
        yield
    finally:
        for block, compiled in zip(blocks, before, strict=True):
            block.compiled = compiled
