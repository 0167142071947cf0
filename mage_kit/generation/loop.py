"""Iterative decoding: sample every unknown token, keep the best, mask the rest again.

Paper: section 3.2 and supplement, "Generation". Legend: B images, L tokens, T steps. `True = masked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from mage_kernels import remask
from torch import Tensor

from mage_kit.base.draws import keys, uniforms
from mage_kit.generation.graphs import Passes
from mage_kit.generation.sampling import check_decoding, check_tokens, draw_tokens, merge_tokens
from mage_kit.heads import Head
from mage_kit.layers.condition import Condition
from mage_kit.layers.predictions import TokenDraw
from mage_kit.models.decoding import Decoding
from mage_kit.models.mage import Mage
from mage_kit.selections import Selection, SelectionStep


@dataclass(frozen=True)
class Step:
    """The canvas after a step of decoding, for those who watch.

    Args:
        number: Of the step, from 1.
        steps: How many there are.
        first: Index of the first image.
        ids_BL: Tokens (B, L), (B, L, F) or (B, L, W): those kept, and what was drawn for those masked again.
        masked_BL: bool, what is still masked.
    """

    number: int
    steps: int
    first: int
    ids_BL: Tensor
    masked_BL: Tensor


Watch = Callable[[Step], None]
"""Called after each step, in the thread that decodes; what it raises ends the decoding."""


@dataclass(frozen=True)
class Trace:
    """Every step of a decoding.

    Args:
        ids_TBL: Tokens (T, B, L), (T, B, L, F) or (T, B, L, W) after each step: those kept, and what was drawn for
            those masked again.
        masked_TBL: bool, what is still masked after each step.
    """

    ids_TBL: Tensor
    masked_TBL: Tensor

    def cpu(self) -> Trace:
        """Return the same on the CPU."""
        return Trace(self.ids_TBL.cpu(), self.masked_TBL.cpu())

    @staticmethod
    def join(parts: Iterable[Trace | None], dim: int = 1) -> Trace | None:
        """Return several as one, along steps (dim 0) or images (dim 1); None if there are none."""
        traces = [part for part in parts if part is not None]
        if not traces:
            return None
        names = ("ids_TBL", "masked_TBL")
        return Trace(*(torch.cat([getattr(part, name) for part in traces], dim=dim) for name in names))


@dataclass(frozen=True)
class Decoded:
    """What decoding made.

    Args:
        ids_BL: Tokens, as those given: int64 ids (B, L) or (B, L, F), or float32 values (B, L, W); known ones are those
            given.
        log_p_BL: float32 confidence: log-probability of each token in the step that kept it; 0 for known ones.
        trace: Every step, where asked for.
    """

    ids_BL: Tensor
    log_p_BL: Tensor
    trace: Trace | None = None


@torch.no_grad()
def decode_tokens(
    model: Mage,
    known_BL: Tensor,
    masked_BL: Tensor,
    *,
    decoding: Decoding | None = None,
    seed: int = 0,
    first_index: int = 0,
    condition: Condition | None = None,
    trace: bool = False,
    watch: Watch | None = None,
) -> Decoded:
    """Fill in unknown tokens; known ones come back bit for bit.

    Args:
        model: A model that generates, in evaluation mode.
        known_BL: int64 ids (B, L) or (B, L, F), or values (B, L, W); what stands at masked places is not read.
        masked_BL: bool, True where the token is unknown; may differ from row to row.
        decoding: Schedule, selection, steps, temperatures; None for the model's own.
        seed: Noise of an image follows (seed, its index) alone, whatever the batch.
        first_index: Index of the first image.
        condition: For conditional decoders.
        trace: Whether every step is kept.
        watch: Shown the canvas after each step.

    Raises:
        PartsError: If the model cannot generate; names the part that is in the way.
        ValueError: If shapes or labels do not fit, the model cannot decode so, or its logits are not finite.
    """
    model.check_generates("sampling")
    check_tokens(model, known_BL, masked_BL, condition)
    length = model.spec.grid.size
    plan = decoding or model.decoding
    check_decoding(model, plan)
    plan.schedule.check(plan.steps)
    ids_BL, masked_BL = known_BL.clone(), masked_BL.clone()
    confidence_BL = torch.zeros(masked_BL.shape, device=ids_BL.device)
    unknown_B, start_BL = masked_BL.sum(dim=1), masked_BL
    revised_BL = start_BL if plan.selection.revises else None
    alike = condition is None and bool(masked_BL.all())
    index_B = torch.arange(first_index, first_index + len(ids_BL), device=ids_BL.device)
    flags = torch.zeros(2, dtype=torch.bool, device=ids_BL.device)
    steps, passes = list[Trace](), Passes(model, len(ids_BL))
    for step in range(1, plan.steps + 1):
        uniform_BL, noise_BL = uniforms(keys(seed, "decode", index_B, step), 2 * length).chunk(2, dim=1)
        draw = draw_tokens(
            model, plan, step, ids_BL, masked_BL, uniform_BL, condition, alike and step == 1, None, revised_BL, passes
        )
        before_BL = masked_BL if revised_BL is None else start_BL
        ids_BL, masked_BL, step_flags = _keep_best(
            model, plan, step, ids_BL, masked_BL, unknown_B, noise_BL, draw, revised_BL
        )
        confidence_BL = torch.where(before_BL & ~masked_BL, draw.log_p_BL, confidence_BL)
        flags |= step_flags
        if trace:
            steps.append(Trace(ids_BL[None], masked_BL[None]))
        if watch is not None:
            watch(Step(step, plan.steps, first_index, ids_BL, masked_BL))
    _refuse(flags, plan.selection, model.head)  # once: reading back in each step would hold the device up
    return Decoded(ids_BL, confidence_BL, Trace.join(steps, dim=0))


@torch.no_grad()
def decode_step(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    unknown_B: Tensor,
    noise_B2L: Tensor,
    condition: Condition | None = None,
    start_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample every unknown token, keep the best, mask the rest again.

    Args:
        model: A model that generates, in evaluation mode.
        plan: Schedule, selection and steps.
        step: Number of the step, from 1.
        ids_BL: Tokens (B, L), (B, L, F) or (B, L, W).
        masked_BL: bool, True where the token is unknown.
        unknown_B: Unknown tokens an image before the first step.
        noise_B2L: Uniform numbers in (0, 1): one a token to sample with, then one a token for the selection.
        condition: For conditional decoders.
        start_BL: bool, what was unknown before the first step; selections that revise need it.

    Returns:
        The tokens, sampled ones among them, and what is unknown in the next step.

    Raises:
        ValueError: If logits are not finite, or the selection breaks its contract.
    """
    uniform_BL, noise_BL = noise_B2L.chunk(2, dim=1)
    revised_BL = (masked_BL if start_BL is None else start_BL) if plan.selection.revises else None
    draw = draw_tokens(model, plan, step, ids_BL, masked_BL, uniform_BL, condition, False, None, revised_BL)
    rest = (unknown_B, noise_BL, draw, revised_BL)
    ids_BL, masked_BL, flags = _keep_best(model, plan, step, ids_BL, masked_BL, *rest)
    _refuse(flags, plan.selection, model.head)
    return ids_BL, masked_BL


def _keep_best(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    unknown_B: Tensor,
    noise_BL: Tensor,
    draw: TokenDraw,
    revised_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, what is unknown next, and whether (log-probabilities, scores) held NaN: a flag on the device.

    What may be masked again are the places unknown now; for a selection that revises, all that were at the start.
    """
    ids_BL = merge_tokens(masked_BL, draw.ids_BL, ids_BL)
    count_B = plan.schedule.next_counts(unknown_B, masked_BL.sum(dim=1), step, plan.steps)
    inputs = SelectionStep(step, plan.steps, model.spec.grid, draw.log_p_BL, noise_BL, draw.predictions)
    score_BL = plan.selection.score(inputs)
    if not isinstance(score_BL, Tensor) or score_BL.shape != masked_BL.shape:
        shape = tuple(score_BL.shape) if isinstance(score_BL, Tensor) else type(score_BL).__name__
        name = type(plan.selection).__name__
        raise ValueError(f"selection: {name} returned {shape}, must be a tensor of shape {tuple(masked_BL.shape)}")
    open_BL = masked_BL if revised_BL is None else revised_BL
    flags = torch.stack([(torch.isnan(values) & open_BL).any() for values in (draw.log_p_BL, score_BL)])
    return ids_BL, remask(score_BL, open_BL, count_B, backend=model.backend), flags


def _refuse(flags: Tensor, selection: Selection, head: Head) -> None:
    """Raise for what decoding must not go on with; a selection that breaks its contract is a plug-in's bug, named."""
    logits, scores = flags.tolist()
    if logits and not head.gives_logits:
        raise ValueError(f"head: log_p of {type(head).__name__} is not finite, must be numbers")
    if logits:
        raise ValueError("logits: not finite, must be numbers (or -inf for a code that may not be drawn)")
    if scores:
        raise ValueError(f"selection: {type(selection).__name__} returned NaN, must be numbers")
