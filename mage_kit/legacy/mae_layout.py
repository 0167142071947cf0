"""Pre-trained MAE: with its decoder, or the encoder alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mage_kit.legacy.forms import Batched
from mage_kit.legacy.layout import Options, Pair, Shapes, one_to_one
from mage_kit.legacy.mae_tensors import DECODER_HEADS, ENCODER, HIDDEN, POSITIONS, MaeTensors
from mage_kit.legacy.mage_layout import decoder_of, published_state
from mage_kit.losses import MaskedMSE
from mage_kit.mask_ratios import FixedRatio
from mage_kit.models.mage import Mage
from mage_kit.paddings import MaskTokenPadding


class MaeLayout(MaeTensors):
    """Pre-trained MAE under "model": with its decoder as it was trained, or the encoder alone, as most files are."""

    kind = "mae"
    title = "a pre-trained MAE"
    uses = frozenset({"image_size", "encoder_heads", "decoder_heads"})

    def recognises(self, names: set[str]) -> bool:
        """Patches and a final norm, without a classifier."""
        return {"patch_embed.proj.weight", "pos_embed", "norm.weight"} <= names and "head.weight" not in names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths and depths; heads by known width."""
        tokenizer, encoder = self.tokenizer(shapes, options), self.encoder(shapes, options)
        parts: dict[str, Any] = {
            "tokenizer": tokenizer, "encoder": encoder, "embedding": POSITIONS, "drop": "lowest", "ratio_group": 0,
            "mask_ratio": FixedRatio(ratio=0.75),
        }  # fmt: skip
        if "decoder_embed.weight" not in shapes:
            return Mage(**parts, decoder=None, losses=[])
        decoder = decoder_of(shapes, encoder.dim, tokenizer.spec.grid.size, options, DECODER_HEADS, dropout=0.0)
        return Mage(**parts, decoder=decoder, padding=MaskTokenPadding(decoder.dim), losses=[MaskedMSE()])

    def pairs(self, module: Any) -> list[Pair]:
        """Prefixes renamed; the patch projection in another order."""
        special = [
            *self.shared(module),
            Pair("decoder.positions_NE", "decoder_pos_embed", Batched()),
            Pair("padding.mask_token", "mask_token", Batched(2)),
        ]
        rename = {
            **ENCODER, "encoder.norm.": "norm.", "decoder.embed.": "decoder_embed.",
            "decoder.blocks.": "decoder_blocks.", "decoder.norm.": "decoder_norm.",
            "heads.tokens.fc.": "decoder_pred.",
        }  # fmt: skip
        state = [name for name in published_state(module) if name != HIDDEN]
        plain = one_to_one([name for name in state if name not in {pair.ours for pair in special}], rename)
        return plain + [pair for pair in special if pair.ours in state]

    def filler(self, module: Any) -> dict[str, Tensor]:
        """Positions that are computed here, where the model has them so."""
        embedding = module.embedding
        return {} if embedding.config.positions == "learned" else {"pos_embed": embedding.positions_ND.detach()[None]}
