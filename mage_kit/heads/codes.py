"""Codes predicted by logits: through the embedding's table, detached, or through a table of their own.

Legend: M rows (masked tokens), E decoder width, D encoder width, V codes, F ids a token, B images, L tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mage_kernels import sample_tokens
from torch import Tensor, nn

from mage_kit.base.draws import more_uniforms
from mage_kit.base.grid import TokenSpec
from mage_kit.heads.base import HEADS, Head
from mage_kit.layers.blocks import initialise
from mage_kit.layers.embedding import TokenEmbedding
from mage_kit.layers.linear_layers import linear, packable
from mage_kit.layers.predictions import DrawRule, LossRows, PassCost, Predictions, TokenDraw, cross_entropy_rows


@HEADS.register("codes")
class CodeHead(Head):
    """Linear E -> D, GELU, LayerNorm (eps 1e-5), product with a table of codes, bias.

    The embedding's table learns from the input side alone: with a gradient from here the published weights could not
    have been trained as they were. Real codes only: neither the mask row nor the class row can be predicted. Where the
    encoder sees another stream, the codes have no rows in the embedding, and the head has a table of its own.

    Args:
        tied: Predict through the embedding's table, where the encoder sees the same stream.
    """

    needs_codes = True
    draws = True
    gives_logits = True
    gives_predictions = True

    def __init__(
        self, spec: TokenSpec, decoder_dim: int, encoder_dim: int, is_input: bool, *, tied: bool = True
    ) -> None:
        super().__init__()
        assert spec.codes is not None
        self.spec, self.tied = spec, tied
        self.decoder_dim, self.encoder_dim, self.is_input = decoder_dim, encoder_dim, is_input
        self.fc = packable(decoder_dim, encoder_dim)
        self.ln = nn.LayerNorm(encoder_dim)
        count = spec.codes * spec.factors
        self.bias = nn.Parameter(torch.zeros(count))
        self.table = None if tied and is_input else nn.Parameter(torch.empty(count, encoder_dim).normal_(std=0.02))
        initialise(self)

    def forward(self, features_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        """(..., E) -> logits (..., V); (..., F V) where a token has F ids."""
        features_MD = self.ln(linear(self.fc, features_ME, gelu=True))
        table_VD = embedding.codes_VD.detach() if self.table is None else self.table
        return F.linear(features_MD, table_VD.to(features_MD.dtype), self.bias.to(features_MD.dtype))

    def rows(self, predictions_MX: Tensor, targets_M: Tensor) -> LossRows:
        """Return cross entropies, summed over the ids of a token; a hit is a token with all its ids right."""
        return cross_entropy_rows(predictions_MX, targets_M, 0.0)

    def draw(self, predictions_BLX: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None, rule: DrawRule) -> TokenDraw:
        """Draw codes; of several ids a token each by itself."""
        if self.spec.factors > 1:
            return self._draw_factors(predictions_BLX, uniform_BL, masked_BL, rule)
        logits_BLV = predictions_BLX
        cut_BLV = limited(logits_BLV, rule.temperature, rule.top_k, rule.top_p)
        ids_BL, log_p_BL = sample_tokens(cut_BLV, uniform_BL, masked_BL, backend=rule.backend, check=False)
        if cut_BLV is logits_BLV and not rule.reads_predictions:
            return TokenDraw(ids_BL, log_p_BL, None)
        log_p_BLV = F.log_softmax(logits_BLV.float(), dim=-1)
        drawn_BL = log_p_BLV.gather(2, ids_BL[..., None])[..., 0]
        if masked_BL is not None:
            drawn_BL = drawn_BL.masked_fill(~masked_BL, 0.0)
        log_p_BL = torch.where(log_p_BL.isnan(), log_p_BL, drawn_BL)  # where the draw failed its NaN is what says so
        return TokenDraw(ids_BL, log_p_BL, _predictions(log_p_BLV) if rule.reads_predictions else None)

    def log_p(self, predictions_BLX: Tensor, ids_BL: Tensor) -> Tensor:
        """Return the log-probability of codes, summed over the ids of a token."""
        log_p = F.log_softmax(_by_factor(predictions_BLX, self.spec).float(), dim=-1)
        ids = ids_BL if self.spec.factors > 1 else ids_BL[..., None]
        of_ids: Tensor = log_p.gather(-1, ids[..., None])[..., 0].sum(dim=-1)
        return of_ids

    def cost(self, rows: float, low: int) -> PassCost:
        """M D V, and once again backward where the table gets no gradient. Kept: inputs of GELU and of the product."""
        width = self.fc.out_features
        return PassCost(2.0 * rows * width * len(self.bias), 1 if self.table is None else 2, 2.0 * low * rows * width)

    def _draw_factors(
        self, predictions_BLX: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None, rule: DrawRule
    ) -> TokenDraw:
        """Draw each id from a number of its own, which follows from the token's uniform as from a key."""
        ids, log_p, logs = [], torch.zeros_like(uniform_BL, dtype=torch.float32), []
        numbers_BLF = more_uniforms(uniform_BL, self.spec.factors)
        for factor, logits_BLV in enumerate(_by_factor(predictions_BLX, self.spec).unbind(dim=-2)):
            digits_BL = numbers_BLF[..., factor].contiguous()
            cut_BLV = limited(logits_BLV.contiguous(), rule.temperature, rule.top_k, rule.top_p)
            ids_BL, _ = sample_tokens(cut_BLV, digits_BL, masked_BL, backend=rule.backend, check=False)
            log_p_BLV = F.log_softmax(logits_BLV.float(), dim=-1)
            drawn_BL = log_p_BLV.gather(2, ids_BL[..., None])[..., 0]
            log_p = log_p + (drawn_BL if masked_BL is None else drawn_BL.masked_fill(~masked_BL, 0.0))
            ids.append(ids_BL)
            logs.append(_predictions(log_p_BLV))
        if not rule.reads_predictions:
            return TokenDraw(torch.stack(ids, dim=-1), log_p, None)
        first, second = (torch.stack([getattr(each, name) for each in logs]) for name in ("first_BL", "second_BL"))
        best = first.prod(dim=0)
        # The next likeliest token changes one id: the one where that costs least.
        next_best = (best * second / first.clamp_min(1e-30)).amax(dim=0)
        entropy = torch.stack([each.entropy_BL for each in logs]).sum(dim=0)
        return TokenDraw(torch.stack(ids, dim=-1), log_p, Predictions(best, next_best, entropy))


def _by_factor(logits: Tensor, spec: TokenSpec) -> Tensor:
    """(..., F V) -> (..., F, V)."""
    parts: Tensor = logits.unflatten(-1, (spec.factors, -1))
    return parts


def _predictions(log_p_BLV: Tensor) -> Predictions:
    p_BLV = log_p_BLV.exp()
    likeliest = p_BLV.topk(min(2, p_BLV.shape[2]), dim=2).values
    second_BL = likeliest[..., 1] if likeliest.shape[2] > 1 else torch.zeros_like(likeliest[..., 0])
    return Predictions(likeliest[..., 0], second_BL, torch.special.entr(p_BLV).sum(dim=2))


def limited(logits_BLV: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Return logits at a temperature, -inf for codes that may not be drawn; the very same tensor if nothing is asked.

    Args:
        logits_BLV: Logits over the codes.
        temperature: 0 leaves the likeliest code alone, the first one of several.
        top_k: Likeliest codes that are kept; of equally likely ones the first.
        top_p: Probability at the temperature that the likeliest codes that are kept add up to, at least.

    Returns:
        float32 logits (B, L, V).
    """
    codes = logits_BLV.shape[-1]
    if temperature == 0:
        temperature, top_k = 1.0, 1
    whole = top_k is None or top_k >= codes
    if temperature == 1.0 and whole and top_p in (None, 1.0):
        return logits_BLV
    logits_BLV = logits_BLV.float() / temperature
    if whole and top_p in (None, 1.0):
        return logits_BLV
    ordered_BLV, order_BLV = logits_BLV.sort(dim=-1, descending=True, stable=True)
    out_BLV = torch.zeros_like(ordered_BLV, dtype=torch.bool)
    if top_k is not None:
        out_BLV[..., top_k:] = True
    if top_p is not None and top_p < 1.0:
        # A code goes out if those before it suffice; the first one has none before it, and stays.
        p_BLV = ordered_BLV.masked_fill(out_BLV, -torch.inf).softmax(dim=-1)
        out_BLV |= p_BLV.cumsum(dim=-1) - p_BLV >= top_p
    return logits_BLV.masked_fill(out_BLV.gather(-1, order_BLV.argsort(dim=-1)), -torch.inf)
