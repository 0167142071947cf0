"""One draw from a model: a token for each unknown place, and what the model thinks of it.

Legend: B images, L tokens, M unknown tokens, X values of a prediction. `True = masked`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mage_kit.base import doors
from mage_kit.base.doors import trusted
from mage_kit.base.errors import PartsError
from mage_kit.layers.condition import UNKNOWN, Condition
from mage_kit.layers.predictions import DrawRule, Predictions, TokenDraw
from mage_kit.models.decoding import Decoding
from mage_kit.models.decoding_rules import decoding_problems
from mage_kit.models.mage import Mage


def check_tokens(model: Mage, known_BL: Tensor, masked_BL: Tensor, condition: Condition | None) -> None:
    """Raise ValueError unless tokens have the model's grid, and labels are of its classes."""
    length, classes, more = model.spec.grid.size, model.classes, model.spec.token_shape
    doors.check_tensor("known", known_BL)
    doors.check_tensor("masked", masked_BL)
    plain = known_BL.ndim == 2 + len(more) and tuple(known_BL.shape[1:]) == (length, *more)
    if not plain or masked_BL.shape != known_BL.shape[:2]:
        shapes = f"{tuple(known_BL.shape)} and {tuple(masked_BL.shape)}"
        rule = f"must both be (B, {length})" if not more else f"must be (B, {length}, {more[0]}) and (B, {length})"
        raise ValueError(f"known and masked: {shapes}, {rule}")
    if known_BL.dtype != model.spec.dtype:
        raise ValueError(f"known: {known_BL.dtype}, must be {model.spec.dtype}")
    doors.check_masked("masked", masked_BL, tuple(known_BL.shape[:2]))
    doors.check_tokens("known", known_BL, model.spec.shape(1)[1:], model.spec.codes, masked_BL)
    if condition is None:
        return
    vectors_BX = condition.vectors_BX
    if vectors_BX is not None and (vectors_BX.ndim != 2 or len(vectors_BX) != len(known_BL)):
        raise ValueError(f"condition: vectors {tuple(vectors_BX.shape)}, must be (B, X) for {len(known_BL)} images")
    labels_B = condition.labels_B
    if classes is None:
        return
    if labels_B.shape != known_BL.shape[:1] or bool(((labels_B < UNKNOWN) | (labels_B >= classes)).any()):
        rule = f"must be {len(known_BL)} whole numbers from 0 to {classes - 1}, or -1 for no class"
        form = f"{labels_B.tolist()}" if labels_B.numel() <= 16 else f"{tuple(labels_B.shape)}"
        raise ValueError(f"condition: labels {form}, {rule}")


def check_decoding(model: Mage, decoding: Decoding) -> None:
    """Raise ValueError if a model that generates cannot do what is asked of it.

    Args:
        model: The model.
        decoding: How it is to generate.
    """
    for line in decoding_problems(model, decoding).values():
        raise ValueError(line)


@trusted()
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
    scored_BL: Tensor | None = None,
    passes: Callable[..., Tensor] | None = None,
) -> TokenDraw:
    """Draw a token for each unknown place, by the head.

    Args:
        model: A model that generates, in evaluation mode.
        plan: How tokens are drawn.
        step: From 1.
        ids_BL: Tokens (B, L), (B, L, F) or (B, L, W).
        masked_BL: bool, True where the token is unknown.
        uniform_BL: One number in (0, 1) a token.
        condition: For conditional decoders.
        same: True if all images are alike, so that one pass over the model serves them all.
        rows: Compute head and draw on the unknown tokens alone; None for where that is faster, a CPU.
        scored_BL: bool, for selections that revise: every place that is scored, those decoded before among them, by
            the token that stands there. None for the unknown ones alone.
        passes: Gives the logits; None for `model.logits`.

    Returns:
        What was drawn; where a place is scored and not masked, the token that stood there.
    """
    images, passes = 1 if same else len(ids_BL), passes or model.logits
    guidance = plan.guidance_at(step)
    wanted_BL = masked_BL if scored_BL is None else scored_BL
    rule = DrawRule(plan.temperature_at(step), plan.top_k, plan.top_p, plan.selection.reads_predictions, model.backend)
    if not (ids_BL.device.type == "cpu" if rows is None else rows):
        made_BLX = passes(ids_BL[:images], masked_BL[:images], condition, guidance=guidance)
        made_BLX = made_BLX.expand(len(ids_BL), -1, -1)
        draw = _check(model, model.head.draw(made_BLX, uniform_BL, wanted_BL, rule), uniform_BL, rule)
        return _standing(model, draw, made_BLX, ids_BL, masked_BL, scored_BL)
    rows_M = wanted_BL[:images].flatten().nonzero()[:, 0]
    made_MX = passes(ids_BL[:images], masked_BL[:images], condition, rows_M, guidance)
    if same:
        made_MX, rows_M = made_MX.repeat(len(ids_BL), 1), wanted_BL.flatten().nonzero()[:, 0]
    uniform_1M = uniform_BL.flatten()[rows_M][None]
    draw = _check(model, model.head.draw(made_MX[None], uniform_1M, None, rule), uniform_1M, rule)
    if scored_BL is not None:
        here = ids_BL.flatten(0, 1)[rows_M][None], masked_BL.flatten()[rows_M][None]
        draw = _standing(model, draw, made_MX[None], *here, torch.ones_like(here[1]))

    def scatter(values_1M: Tensor) -> Tensor:
        whole = torch.zeros((*ids_BL.shape[:2], *values_1M.shape[2:]), dtype=values_1M.dtype, device=values_1M.device)
        whole.flatten(0, 1)[rows_M] = values_1M[0]
        return whole

    predictions = draw.predictions
    if predictions is not None:
        predictions = Predictions(*map(scatter, (predictions.first_BL, predictions.second_BL, predictions.entropy_BL)))
    return TokenDraw(scatter(draw.ids_BL), scatter(draw.log_p_BL), predictions)


def _check(model: Mage, draw: TokenDraw, uniform_BL: Tensor, rule: DrawRule) -> TokenDraw:
    """Make sure, without waiting for the device, that a head drew what it was asked for."""
    head, spec = type(model.head).__name__, model.spec
    if not isinstance(draw, TokenDraw):
        raise PartsError(("heads.tokens",), f"{head} drew a {type(draw).__name__}, must give a TokenDraw")
    shape = (*uniform_BL.shape, *spec.token_shape)
    if tuple(draw.ids_BL.shape) != shape or draw.ids_BL.dtype != spec.dtype:
        has = f"{draw.ids_BL.dtype} {tuple(draw.ids_BL.shape)}"
        raise PartsError(("heads.tokens",), f"{head} drew tokens of {has}, must be {spec.dtype} {shape}")
    if spec.codes and draw.ids_BL.device.type == "cpu" and draw.ids_BL.numel():  # elsewhere it would be waited for
        low, high = int(draw.ids_BL.min()), int(draw.ids_BL.max())
        if low < 0 or high >= spec.codes:
            raise PartsError(("heads.tokens",), f"{head} drew ids from {low} to {high}, must be 0 to {spec.codes - 1}")
    if draw.log_p_BL.shape != uniform_BL.shape:
        log_p, places = tuple(draw.log_p_BL.shape), tuple(uniform_BL.shape)
        raise PartsError(("heads.tokens",), f"{head} gave log_p of shape {log_p}, must be {places}")
    if rule.reads_predictions and draw.predictions is None:
        rule_of = "must fill TokenDraw.predictions where rule.reads_predictions is set"
        raise PartsError(("generation.selection", "heads.tokens"), f"the selection reads predictions; {head} {rule_of}")
    return draw


def _standing(
    model: Mage, draw: TokenDraw, made_BLX: Tensor, ids_BL: Tensor, masked_BL: Tensor, scored_BL: Tensor | None
) -> TokenDraw:
    """Put back, at places that are scored and not masked, the token that stands there and what it is worth now."""
    if scored_BL is None:
        return draw
    stands_BL = scored_BL & ~masked_BL
    log_p_BL = torch.where(stands_BL, model.head.log_p(made_BLX, ids_BL), draw.log_p_BL)
    return TokenDraw(merge_tokens(stands_BL, ids_BL, draw.ids_BL), log_p_BL, draw.predictions)


def merge_tokens(where_BL: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return tokens (B, L), (B, L, F) or (B, L, W) of the first where a place is True, else of the second."""
    return torch.where(where_BL if first.ndim == 2 else where_BL[..., None], first, second)
