"""One draw from a model: a code for each unknown token, and what the model thinks of it.

Legend: B images, L tokens, M unknown tokens, V codes. `True = masked`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mage_kernels import sample_tokens
from torch import Tensor

from mage_kit.condition import UNKNOWN, Condition
from mage_kit.models.decoding import Decoding
from mage_kit.models.mage import Mage
from mage_kit.selections import Predictions


@dataclass(frozen=True)
class Drawn:
    """What was drawn; 0 at known positions.

    Args:
        ids_BL: int64 codes.
        log_p_BL: float32 log-probability of each under the model at temperature 1, guidance included, nothing cut off.
        predictions: Where asked for.
    """

    ids_BL: Tensor
    log_p_BL: Tensor
    predictions: Predictions | None


def check_tokens(model: Mage, known_BL: Tensor, masked_BL: Tensor, condition: Condition | None) -> None:
    """Raise ValueError unless tokens have the model's grid, and labels are of its classes."""
    length, classes = model.spec.grid.size, model.decoder.classes
    if known_BL.ndim != 2 or known_BL.shape[1] != length or masked_BL.shape != known_BL.shape:
        shapes = f"{tuple(known_BL.shape)} and {tuple(masked_BL.shape)}"
        raise ValueError(f"known and masked: {shapes}, must both be (B, {length})")
    if condition is None or classes is None:
        return
    labels_B = condition.labels_B
    if labels_B.shape != known_BL.shape[:1] or bool(((labels_B < UNKNOWN) | (labels_B >= classes)).any()):
        rule = f"must be {len(known_BL)} whole numbers from 0 to {classes - 1}, or -1 for no class"
        raise ValueError(f"condition: labels {labels_B.tolist()}, {rule}")


def draw_tokens(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    uniform_BL: Tensor,
    condition: Condition | None,
    same: bool,
    rows: bool | None = None,
) -> Drawn:
    """Draw a code for each unknown token.

    Args:
        model: A model with codes, in evaluation mode.
        plan: How tokens are drawn.
        step: From 1.
        ids_BL: int64 tokens.
        masked_BL: bool, True where the token is unknown.
        uniform_BL: One number in (0, 1) a token.
        condition: For conditional decoders.
        same: True if all images are alike, so that one pass over the model serves them all.
        rows: Compute head and draw on the unknown tokens alone; None for where that is the faster way, a CPU.
    """
    images = 1 if same else len(ids_BL)
    guidance = plan.guidance_at(step)
    if not (ids_BL.device.type == "cpu" if rows is None else rows):
        logits_BLV = model.logits(ids_BL[:images], masked_BL[:images], condition, guidance=guidance)
        return _draw(model, plan, step, logits_BLV.expand(len(ids_BL), -1, -1), uniform_BL, masked_BL)
    # On a CPU sizes cost no waiting.
    rows_M = masked_BL[:images].flatten().nonzero()[:, 0]
    logits_MV = model.logits(ids_BL[:images], masked_BL[:images], condition, rows_M, guidance)
    if same:
        logits_MV, rows_M = logits_MV.repeat(len(ids_BL), 1), masked_BL.flatten().nonzero()[:, 0]
    drawn = _draw(model, plan, step, logits_MV[None], uniform_BL.flatten()[rows_M][None], None)

    def spread(values_1M: Tensor) -> Tensor:
        whole_BL = torch.zeros(ids_BL.shape, dtype=values_1M.dtype, device=values_1M.device)
        whole_BL.view(-1)[rows_M] = values_1M[0]
        return whole_BL

    told = drawn.predictions
    if told is not None:
        told = Predictions(spread(told.first_BL), spread(told.second_BL), spread(told.entropy_BL))
    return Drawn(spread(drawn.ids_BL), spread(drawn.log_p_BL), told)


def _draw(
    model: Mage, plan: Decoding, step: int, logits_BLV: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None
) -> Drawn:
    cut_BLV = limited(logits_BLV, plan.temperature_at(step), plan.top_k, plan.top_p)
    ids_BL, log_p_BL = sample_tokens(cut_BLV, uniform_BL, masked_BL, backend=model.backend, check=False)
    reads = plan.selection.reads_predictions
    if cut_BLV is logits_BLV and not reads:
        return Drawn(ids_BL, log_p_BL, None)
    log_p_BLV = F.log_softmax(logits_BLV.float(), dim=-1)
    told_BL = log_p_BLV.gather(2, ids_BL[..., None])[..., 0]
    if masked_BL is not None:
        told_BL = told_BL.masked_fill(~masked_BL, 0.0)
    log_p_BL = torch.where(log_p_BL.isnan(), log_p_BL, told_BL)  # where the draw failed its NaN is what says so
    return Drawn(ids_BL, log_p_BL, _predictions(log_p_BLV) if reads else None)


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
