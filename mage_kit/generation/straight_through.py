"""Images with gradients through their tokens, for those who optimise what a model makes.

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013. Legend: B images, L tokens,
V codes. `True = masked`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mage_kernels import sample_tokens
from torch import Tensor

from mage_kit.base.draws import keys, uniforms
from mage_kit.base.errors import PartsError
from mage_kit.generation.sampling import check_tokens
from mage_kit.heads.codes import limited
from mage_kit.layers.condition import Condition
from mage_kit.models.mage import Mage


@dataclass(frozen=True)
class Relaxed:
    """Images that gradients go through.

    Args:
        images_BCHW: float images, not clamped; those of `ids_BL`, to rounding.
        ids_BL: int64 tokens.
        logits_BLV: float32 logits that they were drawn from.
    """

    images_BCHW: Tensor
    ids_BL: Tensor
    logits_BLV: Tensor


def straight_through(
    model: Mage,
    known_BL: Tensor,
    masked_BL: Tensor,
    *,
    condition: Condition | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    first_index: int = 0,
) -> Relaxed:
    """Draw every unknown token at once and return images whose gradient reaches the logits.

    Forward, each token is the code drawn; backward, it counts as the mean of all codes under softmax(logits /
    temperature). Gradients reach the model's weights (in whatever mode it is), not earlier steps: one pass, no loop.
    Known tokens carry none.

    Args:
        model: A model whose tokenizer has a codebook.
        known_BL: int64 tokens; what stands at masked places is not read.
        masked_BL: bool, True where the token is unknown.
        condition: For conditional decoders.
        temperature: Of the draw and of the gradient, above 0.
        seed: Noise of an image follows (seed, its index) alone.
        first_index: Index of the first image.

    Raises:
        PartsError: If the tokenizer has no codebook that weights could be taken over.
        ValueError: If the temperature is not above 0, shapes or labels do not fit, or logits are not finite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature}, must be above 0")
    model.check_generates("a straight-through draw")
    if not model.head.gives_logits or model.spec.factors != 1:
        raise PartsError(("generation", "heads.tokens"), "gradients need logits over one code a token")
    check_tokens(model, known_BL, masked_BL, condition)
    logits_BLV = model.logits(known_BL, masked_BL, condition).float()
    index_B = torch.arange(first_index, first_index + len(known_BL), device=known_BL.device)
    uniform_BL = uniforms(keys(seed, "decode", index_B, 1), 2 * known_BL.shape[1])[:, : known_BL.shape[1]]
    with torch.no_grad():
        drawn_BL, _ = sample_tokens(limited(logits_BLV, temperature, None, None), uniform_BL, backend=model.backend)
    ids_BL = torch.where(masked_BL, drawn_BL, known_BL)
    hard_BLV = F.one_hot(ids_BL, logits_BLV.shape[2]).to(logits_BLV.dtype)
    soft_BLV = (logits_BLV / temperature).softmax(dim=2)
    weights_BLV = torch.where(masked_BL[..., None], hard_BLV + soft_BLV - soft_BLV.detach(), hard_BLV)
    return Relaxed(model.tokenizer.decode_weights(weights_BLV), ids_BL, logits_BLV)
