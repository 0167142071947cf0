"""What MAE's own checkpoints share: patches, positions, encoder blocks.

Pixels are tokens here (`Patches`), so that MAE's patch projection is the embedding's, its values in another order.
Positions are read as they stand in the file. A hidden patch never enters MAE's encoder, which has no vector for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mage_kit.encoders import ViTEncoder
from mage_kit.layers.embedding import EmbeddingConfig
from mage_kit.legacy.forms import Batched, Form
from mage_kit.legacy.layout import Layout, LayoutError, Options, Pair, Shapes
from mage_kit.legacy.mage_layout import heads_of, size_of
from mage_kit.tokenizers import Patches

ENCODER_HEADS = {768: 12, 1024: 16, 1280: 16}  # published sizes, by width
DECODER_HEADS = {512: 16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POSITIONS = EmbeddingConfig(positions="learned", norm=False, dropout=0.0)
ENCODER = {"encoder.blocks.": "blocks.", "embedding.projection.bias": "patch_embed.proj.bias"}
HIDDEN = "embedding.mask_token"


@dataclass(frozen=True)
class PatchKernel(Form):
    """A patch projection as a convolution's kernel (D, channels, side, side) for our matrix (D, side side channels).

    Args:
        channels: Of the images.
        side: Of a patch.
    """

    channels: int
    side: int

    def read(self, theirs: Tensor) -> Tensor:
        """(D, C, P, Q) -> (D, P Q C)."""
        return theirs.permute(0, 2, 3, 1).flatten(1)

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """(D, P Q C) -> (D, C, P, Q)."""
        return ours.reshape(len(ours), self.side, self.side, self.channels).permute(0, 3, 1, 2)

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """(D, P Q C) -> (D, C, P, Q)."""
        return (ours[0], self.channels, self.side, self.side)


class MaeTensors(Layout):
    """What pre-trained models and classifiers share: patches, positions, encoder blocks."""

    container = "model"
    marker = "patch_embed.proj.weight"
    uses = frozenset({"image_size", "encoder_heads"})
    absent: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def tokenizer(self, shapes: Shapes, options: Options) -> Patches:
        """Build the patches; the image's size follows from the number of positions, a square where no option fits."""
        _, channels, side, other = shapes.of("patch_embed.proj.weight", 4)
        if channels != 3 or side != other:
            has = f"patches {side}x{other} of {channels} channels"
            raise LayoutError(f"patch_embed.proj.weight: {has}, must be square and of 3")
        _, positions, _ = shapes.of("pos_embed", 3)
        size = size_of(positions - 1, side, options.image_size)
        with torch.device("cpu"):  # its mean and deviation are in no file
            return Patches(image_size=size, channels=3, patch=side, mean=MEAN, std=STD)

    def encoder(self, shapes: Shapes, options: Options) -> ViTEncoder:
        """Build the encoder."""
        width = shapes.of("patch_embed.proj.weight", 4)[0]
        heads = heads_of("encoder", width, options.encoder_heads, ENCODER_HEADS)
        ratio = shapes.of("blocks.0.mlp.fc1.weight", 2)[0] / width
        return ViTEncoder(dim=width, depth=shapes.count("blocks.{}."), heads=heads, mlp_ratio=ratio, dropout=0.0)

    def shared(self, module: Any) -> list[Pair]:
        """What is not the same tensor under another name."""
        patches: Patches = module.tokenizer
        kernel = PatchKernel(patches.channels, patches.patch)
        return [
            Pair("embedding.projection.weight", "patch_embed.proj.weight", kernel),
            Pair("embedding.class_token", "cls_token", Batched(2)),
            Pair("embedding.positions_ND", "pos_embed", Batched()),
        ]
