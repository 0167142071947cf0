"""MAGE's own checkpoints: pre-trained models, and classifiers fine-tuned from them.

The legacy vocabulary lives here alone: V codes, 1000 class rows of which one serves as [C0], one mask row at the end.
New models use V codes, mask row, class row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mage_kit.decoders import ViTDecoder
from mage_kit.encoders import ViTEncoder
from mage_kit.legacy.forms import Batched, Rows
from mage_kit.legacy.layout import Layout, LayoutError, Options, Pair, Shapes, one_to_one
from mage_kit.legacy.vqgan_layout import VQGANLayout
from mage_kit.losses import MaskedCrossEntropy
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.paddings import ClassTokenPadding, MaskTokenPadding
from mage_kit.tokenizers import VQGAN

TOKENIZER_PREFIX = "vqgan."
CLASS_ROWS = 1000  # legacy rows between codes and mask row
CLASS_ROW = 76  # which of them stands for [C0]: row 1100 of 2025 where there are 1024 codes
ENCODER_HEADS = {768: 12, 1024: 16}  # published sizes, by width
DECODER_HEADS = {768: 16, 1024: 16}

_EMBEDDING = {
    "embedding.positions_ND": "token_emb.position_embeddings.weight",
    "embedding.norm.": "token_emb.LayerNorm.",
    "encoder.blocks.": "blocks.",
    "tokenizer.": TOKENIZER_PREFIX,
}
_REASONS = {
    r"cls_token": "MAE's class token; MAGE's [C0] is a row of the vocabulary",
    r"pos_embed": "MAE's fixed positions; MAGE's are in token_emb",
    r"patch_embed\..*": "MAE's patch projection; MAGE embeds tokens",
    r"token_emb\.position_ids": "the numbers 0, 1, 2, ...",
}


def vocabulary(codes: int, rows: int) -> tuple[int, ...]:
    """Return the published row of each of ours: the codes, the mask row, the class row.

    Raises:
        LayoutError: If the rows are not codes + 1000 + 1.
    """
    if rows != codes + CLASS_ROWS + 1:
        raise LayoutError(
            f"token_emb.word_embeddings.weight: {rows} rows, must be {codes + CLASS_ROWS + 1} "
            f"({codes} codes of the tokenizer, {CLASS_ROWS} class rows, the mask row)"
        )
    return (*range(codes), rows - 1, codes + CLASS_ROW)


class _MageTensors(Layout):
    """What pre-trained models and classifiers share: tokenizer, embedding, encoder blocks."""

    container = "model"
    marker = "token_emb.word_embeddings.weight"
    row_reason = "legacy rows: classes that no model uses"
    uses = frozenset({"image_size", "encoder_heads"})

    def tokenizer(self, shapes: Shapes, options: Options) -> VQGAN:
        """Build the tokenizer; the image's size follows from the number of positions, a square where no option fits."""
        below = shapes.under(TOKENIZER_PREFIX)
        if "quantize.embedding.weight" not in below:
            raise LayoutError("vqgan.*: missing, the file holds no tokenizer; give its file (option vqgan)")
        positions = shapes.of("token_emb.position_embeddings.weight", 2)[0] - 1
        factor = 2 ** (below.count("encoder.down.{}.") - 1)
        size = size_of(positions, factor, options.image_size)
        tokenizer = VQGANLayout().build(below, Options(image_size=size))
        assert isinstance(tokenizer, VQGAN)
        codes = below.of("quantize.embedding.weight", 2)[0]
        vocabulary(codes, shapes.of("token_emb.word_embeddings.weight", 2)[0])
        return tokenizer

    def encoder(self, shapes: Shapes, options: Options, dropout: float) -> ViTEncoder:
        """Build the encoder."""
        width = shapes.of("token_emb.word_embeddings.weight", 2)[1]
        heads = heads_of("encoder", width, options.encoder_heads, ENCODER_HEADS)
        ratio = shapes.of("blocks.0.mlp.fc1.weight", 2)[0] / width
        return ViTEncoder(dim=width, depth=shapes.count("blocks.{}."), heads=heads, mlp_ratio=ratio, dropout=dropout)

    def rows(self, module: Any) -> Rows:
        """The form of the vocabulary's table."""
        codes = module.spec.codes
        total = codes + CLASS_ROWS + 1
        return Rows(vocabulary(codes, total), total)

    def filler(self, module: Any) -> dict[str, Tensor]:
        """Zeros for what MAGE inherited from MAE."""
        width, positions = module.encoder.dim, module.spec.grid.size + 1
        patch = module.tokenizer.image_size[0] // module.spec.grid.height
        return {
            "cls_token": torch.zeros(1, 1, width),
            "pos_embed": torch.zeros(1, positions, width),
            "patch_embed.proj.weight": torch.zeros(width, module.tokenizer.channels, patch, patch),
            "patch_embed.proj.bias": torch.zeros(width),
            "token_emb.position_ids": torch.arange(positions)[None],
        }


class MageLayout(_MageTensors):
    """Pre-trained MAGE: 433 tensors for ViT-B, 577 for ViT-L, under "model"."""

    kind = "mage"
    title = "a pre-trained MAGE"
    uses = frozenset({"image_size", "encoder_heads", "decoder_heads", "padding"})
    reasons: ClassVar[Mapping[str, str]] = {
        **_REASONS,
        r"mask_token": "read only where the decoder's input was padded with a mask token (--padding mask_token)",
        r"decoder_pos_embed": "MAE's fixed positions; the learned ones are used",
        r"decoder_pred\..*": "MAE's pixel prediction",
    }

    def recognises(self, names: set[str]) -> bool:
        """Vocabulary and decoder."""
        return {"token_emb.word_embeddings.weight", "decoder_embed.weight"} <= names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, depths and codes; heads by known width."""
        tokenizer, encoder = self.tokenizer(shapes, options), self.encoder(shapes, options, dropout=0.1)
        decoder = decoder_of(shapes, encoder.dim, tokenizer.spec.grid.size, options, DECODER_HEADS, dropout=0.1)
        padding = MaskTokenPadding(decoder.dim) if options.padding == "mask_token" else ClassTokenPadding()
        return Mage(
            tokenizer=tokenizer,
            encoder=encoder,
            decoder=decoder,
            padding=padding,
            losses=[MaskedCrossEntropy(label_smoothing=0.1)],
        )

    def pairs(self, module: Any) -> list[Pair]:
        """Prefixes renamed; table and bias among the legacy vocabulary's rows."""
        special = [
            Pair("embedding.table", "token_emb.word_embeddings.weight", self.rows(module)),
            Pair("heads.tokens.bias", "mlm_layer.bias", _bias_rows(module)),
            Pair("decoder.positions_NE", "decoder_pos_embed_learned", Batched()),
            Pair("padding.mask_token", "mask_token", Batched(2)),
        ]
        rename = {
            **_EMBEDDING,
            "encoder.norm.": "norm.",
            "decoder.embed.": "decoder_embed.",
            "decoder.blocks.": "decoder_blocks.",
            "decoder.norm.": "decoder_norm.",
            "heads.tokens.": "mlm_layer.",
        }
        state = published_state(module)
        plain = one_to_one([name for name in state if name not in {pair.ours for pair in special}], rename)
        return plain + [pair for pair in special if pair.ours in state]

    def filler(self, module: Any) -> dict[str, Tensor]:
        """Zeros, and MAE's pixel prediction among them."""
        width, positions = module.decoder.dim, module.spec.grid.size + 1
        shared = super().filler(module)
        values = shared["patch_embed.proj.weight"][0].numel()
        return {
            **shared,
            "mask_token": torch.zeros(1, 1, width),
            "decoder_pos_embed": torch.zeros(1, positions, width),
            "decoder_pred.weight": torch.zeros(values, width),
            "decoder_pred.bias": torch.zeros(values),
        }


class ClassifierLayout(_MageTensors):
    """A classifier fine-tuned from MAGE, under "model"."""

    kind = "mage_classifier"
    title = "a fine-tuned MAGE classifier"
    reasons: ClassVar[Mapping[str, str]] = _REASONS

    def recognises(self, names: set[str]) -> bool:
        """Vocabulary and classification head."""
        return {"token_emb.word_embeddings.weight", "head.weight"} <= names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read width, depth, codes and classes; blocks have no dropout, the embedding keeps its 0.1."""
        tokenizer, encoder = self.tokenizer(shapes, options), self.encoder(shapes, options, dropout=0.0)
        return MageClassifier(tokenizer=tokenizer, encoder=encoder, classes=shapes.of("head.weight", 2)[0])

    def pairs(self, module: Any) -> list[Pair]:
        """Prefixes renamed."""
        table = Pair("embedding.table", "token_emb.word_embeddings.weight", self.rows(module))
        names = [name for name in module.state_dict() if name != table.ours]
        return [*one_to_one(names, {**_EMBEDDING, "norm.": "fc_norm."}), table]


def published_state(module: Mage) -> list[str]:
    """Names of a model's state that the published layout has room for: no loss has parameters there."""
    return [name for name in module.state_dict() if not name.startswith("losses.")]


def _bias_rows(module: Mage) -> Rows:
    """The bias of the codes' rows; those of the mask row and the legacy classes are never read."""
    codes = module.spec.codes
    assert codes is not None
    return Rows(tuple(range(codes)), codes + CLASS_ROWS + 1, leading=2)


def heads_of(part: str, width: int, number: int | None, table: dict[int, int]) -> int:
    """Return the number of attention heads, which no tensor's shape tells.

    Raises:
        LayoutError: If none is given and the width is not a published one, or it does not divide the width.
    """
    heads = number or table.get(width)
    if heads is None:
        sizes = ", ".join(f"{heads} at {size}" for size, heads in table.items())
        raise LayoutError(f"{part} of width {width}: give its number of heads ({part}-heads; published: {sizes})")
    if width % heads:
        raise LayoutError(f"{part}-heads: {heads}, must divide the {part}'s width ({width})")
    return heads


def decoder_of(
    shapes: Shapes, encoder_dim: int, tokens: int, options: Options, table: dict[int, int], dropout: float
) -> ViTDecoder:
    """Build the decoder that MAE's names hold, MAGE's among them.

    Args:
        shapes: Of the file.
        encoder_dim: Width of the encoder.
        tokens: Of an image.
        options: With the number of heads, where it is given.
        table: Published heads by width.
        dropout: As it was trained.
    """
    width = shapes.of("decoder_embed.weight", 2)[0]
    return ViTDecoder(
        encoder_dim,
        tokens,
        dim=width,
        depth=shapes.count("decoder_blocks.{}."),
        heads=heads_of("decoder", width, options.decoder_heads, table),
        mlp_ratio=shapes.of("decoder_blocks.0.mlp.fc1.weight", 2)[0] / width,
        dropout=dropout,
    )


def size_of(positions: int, factor: int, given: tuple[int, int] | None) -> tuple[int, int]:
    """Return the image's size that so many positions are of: the given one where it fits, else a square.

    Args:
        positions: Of tokens.
        factor: Pixels a side of a token.
        given: Option; None for none.

    Raises:
        LayoutError: If none fits and they are no square grid.
    """
    if given is not None and (given[0] // factor) * (given[1] // factor) == positions:
        return given
    side = math.isqrt(positions)
    if side * side != positions:
        rule = "give the image size that the file was trained at (--image-size HxW)"
        raise LayoutError(f"{positions} positions are no square grid; {rule}")
    return side * factor, side * factor
