"""The pre-norm transformer block shared by encoders and decoders. Parameter names are those of published ViTs.

Legend: B images, N positions, D width, H heads, d head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from mage_kernels.attention import Implementation, attention
from mage_kernels.autocasting import autocast_dtype
from mage_kernels.dropout import dropout
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mage_kit.layers.linear_layers import is_lowered, linear, packable

NORM_EPS = 1e-6
_WIDEST = 2**31 - 1


class LayerNorm(nn.LayerNorm):
    """A LayerNorm whose parameters may have arrived in bfloat16, as those of sharded blocks do; inputs stay float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self.weight.dtype == x.dtype or x.dtype != torch.float32:
            return super().forward(x)
        return F.layer_norm(x, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention with dropout on the weights and on the output.

    Args:
        dim: Width D, a multiple of `heads`.
        heads: Number of heads.
        dropout: Probability for both dropouts.

    Raises:
        ValueError: If `dim` is not a multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim: {dim}, must be a multiple of heads ({heads})")
        self.heads = heads
        self.dropout = dropout
        self.implementation: Implementation = "sdpa"  # with gradients
        self.inference: Implementation = "sdpa"  # without: the faster form may be another
        self.generating: Implementation | None = None  # set while a model is prepared to generate
        self.qkv = packable(dim, 3 * dim)
        self.proj = packable(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        query, key, value = rearrange(
            linear(self.qkv, x_BND), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        rate = self.dropout if self.training else 0.0
        form = self.implementation if torch.is_grad_enabled() else self.inference
        if self.generating is not None and is_lowered(x_BND):
            form = self.generating
        out = attention(query, key, value, dropout=rate, implementation=form)
        return drop(linear(self.proj, rearrange(out, "b h n d -> b n (h d)")), self.dropout, self.training)


class MLP(nn.Module):
    """Linear, exact GELU, linear, each followed by dropout.

    Args:
        dim: Width D.
        ratio: Hidden width as a multiple of D.
        dropout: Probability for both dropouts.

    Raises:
        ValueError: If that is over 2^31 - 1 values.
    """

    def __init__(self, dim: int, ratio: float, dropout: float) -> None:
        super().__init__()
        if dim * ratio > _WIDEST:
            raise ValueError(f"mlp_ratio: {ratio:g}, must give at most {_WIDEST:,} values (dim is {dim})")
        hidden = round(dim * ratio)
        self.dropout = dropout
        self.fc1 = packable(dim, hidden)
        self.fc2 = packable(hidden, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden = drop(linear(self.fc1, x_BND, gelu=True), self.dropout, self.training)
        return drop(linear(self.fc2, hidden), self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        dim: Width D.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of D.
        dropout: Probability on attention weights, attention output and twice in the MLP.

    Attributes:
        recompute: Keep the input alone for the backward pass, and compute the rest again there: memory for a third
            more time.
        compiled: What runs instead of `run` where gradients are computed; takes the block and its input.
        drop_path: Probability, in training, that an image goes past attention, and the same for the MLP.
    """

    recompute = False
    compiled: Callable[[Block, Tensor], Tensor] | None = None
    keep_share: Tensor | None

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads, dropout)
        self.norm2 = LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, mlp_ratio, dropout)
        # A tensor, since it differs from block to block: compilers take numbers for constants, and a graph for each.
        self.register_buffer("keep_share", None, persistent=False)
        self.drop_path = 0.0

    @property
    def drop_path(self) -> float:
        """See above."""
        return self._drop_path

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        self._drop_path = probability
        self.keep_share = torch.full((), 1 - probability, device=self.norm1.weight.device) if probability else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.compiled is not None and torch.is_grad_enabled():
            return self.compiled(self, x_BND)
        return self.run(x_BND)

    def run(self, x_BND: Tensor) -> Tensor:
        """`forward`, as it is written or to be compiled."""
        if self.recompute and torch.is_grad_enabled():  # in here, so that a compiled block computes again what it did
            again_BND: Tensor = checkpoint(self._pass, x_BND, use_reentrant=False)
            return again_BND
        return self._pass(x_BND)

    def _pass(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self._survived(self.attn(self.norm1(x_BND)))
        hidden_BND = self._survived(self.mlp(self.norm2(x_BND)))
        return x_BND + hidden_BND if torch.is_grad_enabled() else x_BND.add_(hidden_BND)

    def _survived(self, hidden_BND: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., 2016): nothing for some images, more for the others, the same on average."""
        if self.keep_share is None or not self.training:
            return hidden_BND
        survives_B11 = torch.rand(len(hidden_BND), 1, 1, device=hidden_BND.device) < self.keep_share
        return hidden_BND * (survives_B11 / self.keep_share).to(hidden_BND.dtype)


class Blocks(nn.ModuleList):
    """Blocks in a row.

    Attributes:
        narrow: Sum in bfloat16 where autocast computes in it and gradients are wanted.
    """

    narrow = False

    def through(self, x_BND: Tensor) -> Iterator[Tensor]:
        """Yield each block's output (B, N, D), the first one's first."""
        if self.narrow and torch.is_grad_enabled() and autocast_dtype(x_BND.device.type) == torch.bfloat16:
            x_BND = x_BND.bfloat16()
        for block in self:
            x_BND = block(x_BND)
            yield x_BND

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D), the last block's output."""
        for output_BND in self.through(x_BND):
            x_BND = output_BND
        return x_BND


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout that costs nothing where the probability is 0."""
    return dropout(x, probability) if training and probability else x


def initialise(module: nn.Module) -> None:
    """Initialise linear layers (Xavier uniform, bias 0) and LayerNorms (1 / 0), as the published code does."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
