"""Named sizes of the operations: shapes of ViT-B and ViT-L in training and generation, and a small one."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Size:
    """Shapes of one use.

    Args:
        name: Of the size.
        images: B, on a GPU.
        images_on_cpu: B, on a CPU.
        width: D, the encoder's and the table's.
        inner: E, the decoder's.
        heads: Attention heads, whose width is `attended // heads`.
        attended: Width of the attention.
        seen: Positions that attend to one another, class included.
        tokens: L.
        dropped: Of them, in training.
        codes: V.
        generating: Decoding, without gradients; otherwise training.
    """

    name: str
    images: int
    images_on_cpu: int
    width: int = 768
    inner: int = 768
    heads: int = 12
    attended: int = 768
    seen: int = 129
    tokens: int = 256
    dropped: int = 128
    codes: int = 1024
    generating: bool = False

    def batch(self, device: torch.device) -> int:
        """Images on a device."""
        return self.images if device.type == "cuda" else self.images_on_cpu


SIZES = (
    Size("small", 4, 4, width=192, inner=192, heads=4, attended=192, seen=33, tokens=64, dropped=32, codes=128),
    Size("vitb_encoder", 256, 8),
    Size("vitb_decoder", 256, 8, heads=16, seen=257),
    Size("vitl_encoder", 256, 8, width=1024, inner=1024, heads=16, attended=1024),
    Size("vitl_decoder", 256, 8, width=1024, inner=1024, heads=16, attended=1024, seen=257),
    Size("vitb_generation", 64, 4, heads=16, seen=257, dropped=0, generating=True),
    Size(
        "vitl_generation", 64, 4, width=1024, inner=1024, heads=16, attended=1024, seen=257, dropped=0, generating=True
    ),
)
