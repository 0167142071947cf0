"""A MAGE encoder for other people's code: the names of a plain ViT, in one safetensors file.

| key | shape | what it is |
|---|---|---|
| token_embed.weight | (V, D) | one row a code; takes the place of the patch projection |
| mask_token | (1, 1, D) | what stands for an unknown token |
| cls_token | (1, 1, D) | [C0] |
| pos_embed | (1, 1 + L, D) | learned positions, class first, then row by row |
| norm_pre.weight, .bias | (D) | LayerNorm after adding positions, where the model has one |
| blocks.I.norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2 | | pre-norm blocks, exact GELU |
| norm.weight, .bias | (D) | final norm of a pre-trained model; features are taken before it |
| fc_norm, head | | of a classifier instead |

An encoder of pixels (MAE's form) has timm's names: patch_embed.proj (a convolution), cls_token, pos_embed, blocks,
norm.

x = norm_pre(cat(cls_token, token_embed[ids]) + pos_embed), then the blocks; features = mean of x over the patch
positions. LayerNorm eps 1e-6. The file's metadata tells heads, grid, the tokenizer and
which of its streams the ids are.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.grid import TokenGrid
from mage_kit.encoders import ENCODERS, ViTEncoder
from mage_kit.layers.blocks import NORM_EPS
from mage_kit.layers.embedding import TokenEmbedding, resize_positions
from mage_kit.legacy.mae_tensors import PatchKernel
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.tokenizers import TOKENIZERS, TOKENS, Patches, Tokenizer
from mage_kit.tokenizers.streams import tokenizer_of


def plain_vit(model: Mage | MageClassifier, grid: TokenGrid | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return an encoder's tensors under a plain ViT's names, and the file's metadata.

    Args:
        model: Model or classifier with codes.
        grid: Positions are interpolated to this grid; None keeps the model's.

    Raises:
        MageKitError: If the encoder is no plain ViT over codes.
    """
    has_patches = isinstance(model.tokenizer, Patches) and model.input == TOKENS
    if not (model.spec.discrete or has_patches) or type(model.encoder) is not ViTEncoder:
        raise MageKitError(
            f"encoder: {type(model.encoder).__name__} over {type(model.tokenizer).__name__}'s '{model.input}', "
            "must be a ViT over codes or patches"
        )
    if model.spec.factors != 1:
        raise MageKitError(f"tokenizer: {model.spec.factors} ids a token, must be one: each is a row of token_embed")
    owner = tokenizer_of(model.input, list(model.targets))
    tokenizer = model.tokenizer if owner is None else model.targets[owner]
    assert isinstance(tokenizer, Tokenizer)
    embedding, old = model.embedding, model.spec.grid
    new = grid or old
    tensors = {
        **(_patches(tokenizer, embedding) if isinstance(tokenizer, Patches) else _codes(embedding)),
        "pos_embed": resize_positions(embedding.positions_ND.detach(), old, new)[None],
    }
    parts: dict[str, Any] = {"norm_pre": embedding.norm, "blocks": model.encoder.blocks}
    parts |= {"norm": model.encoder.norm} if isinstance(model, Mage) else {"fc_norm": model.norm, "head": model.head}
    for prefix, part in parts.items():
        if part is not None:
            tensors.update({f"{prefix}.{name}": tensor for name, tensor in part.state_dict().items()})
    about = {
        "encoder": ENCODERS.describe(model.encoder),
        "norm_eps": NORM_EPS,
        "grid": [new.height, new.width],
        "trained_grid": [old.height, old.width],
        "tokenizer": TOKENIZERS.describe(tokenizer, weights=None),
        "stream": model.input.removeprefix(f"{owner}/") if owner != model.input else TOKENS,
    }
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, {
        "mage_kit": json.dumps(about)
    }


def _codes(embedding: TokenEmbedding) -> dict[str, Tensor]:
    table_VD = embedding.table.detach()
    return {
        "token_embed.weight": embedding.codes_VD.detach(),
        "mask_token": table_VD[embedding.mask_row].reshape(1, 1, -1),
        "cls_token": table_VD[embedding.mask_row + 1].reshape(1, 1, -1),
    }


def _patches(tokenizer: Patches, embedding: TokenEmbedding) -> dict[str, Tensor]:
    kernel = PatchKernel(tokenizer.channels, tokenizer.patch)
    return {
        "patch_embed.proj.weight": kernel.write(embedding.projection.weight.detach(), None),
        "patch_embed.proj.bias": embedding.projection.bias.detach(),
        "cls_token": embedding.class_token.detach().reshape(1, 1, -1),
    }
