"""Iterative decoding: sample every unknown token, keep the best, mask the rest again.

Paper: section 3.2 and supplement, "Generation". Legend: B images, L tokens, V codes. `True = masked`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mage_kernels import remask, sample_tokens
from torch import Tensor

from mage_kit.draws import keys, uniforms
from mage_kit.errors import MageKitError, PartsError
from mage_kit.generation.prepared import Asked, prepared
from mage_kit.model import Decoding, Mage
from mage_kit.pictures import grid_picture, save_picture
from mage_kit.schedules import Schedule
from mage_kit.selections import Selection, SelectionStep


@dataclass(frozen=True)
class Generated:
    """What decoding made.

    Args:
        images_BCHW: float32 images in [0, 1].
        ids_BL: Their tokens, int64.
    """

    images_BCHW: Tensor
    ids_BL: Tensor

    def save(self, path: str | os.PathLike[str], columns: int = 8, overwrite: bool = False) -> None:
        """Write the images as one PNG, `columns` a row.

        Raises:
            MageKitError: If the file exists and `overwrite` is false.
        """
        target = Path(path)
        if columns < 1:
            raise ValueError(f"columns: {columns}, must be at least 1")
        if target.exists() and not overwrite:
            raise MageKitError(f"path: '{target}', exists; nothing is overwritten unless asked (overwrite=True)")
        save_picture(grid_picture(self.images_BCHW, min(columns, len(self.images_BCHW))), target)


@torch.no_grad()
def decode_tokens(
    model: Mage,
    known_BL: Tensor,
    masked_BL: Tensor,
    *,
    decoding: Decoding | None = None,
    seed: int = 0,
    first_index: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Fill in unknown tokens; known ones come back bit for bit.

    Args:
        model: A model with codes, in evaluation mode.
        known_BL: int64 tokens; what stands at masked places is not read.
        masked_BL: bool, True where the token is unknown; may differ from row to row.
        decoding: Schedule, selection and steps; None for the model's own.
        seed: Noise of an image follows (seed, its index) alone, whatever the batch.
        first_index: Index of the first image.
        on_step: Called with (step, steps) after each step.

    Returns:
        int64 tokens (B, L).

    Raises:
        PartsError: If the tokenizer has no codes.
        ValueError: If the model's logits are not finite.
    """
    if not model.spec.discrete:
        raise PartsError(
            ("generation", "tokenizer"), f"sampling needs codes, {type(model.tokenizer).__name__} has none"
        )
    plan = decoding or model.decoding
    plan.schedule.check(plan.steps)
    ids_BL, masked_BL = known_BL.clone(), masked_BL.clone()
    unknown_B = masked_BL.sum(dim=1)
    blank = bool(masked_BL.all())
    index_B = torch.arange(first_index, first_index + len(ids_BL), device=ids_BL.device)
    length = ids_BL.shape[1]
    broken = torch.zeros(2, dtype=torch.bool, device=ids_BL.device)
    for step in range(1, plan.steps + 1):
        noise_B2L = uniforms(keys(seed, "decode", index_B, step), 2 * length)
        same = blank and step == 1
        ids_BL, masked_BL, found = _step(model, plan, step, ids_BL, masked_BL, unknown_B, noise_B2L, same)
        broken |= found
        if on_step is not None:
            on_step(step, plan.steps)
    _refuse(broken, plan.selection)  # once: reading back in each step would hold the device up
    return ids_BL


@torch.no_grad()
def decode_step(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    unknown_B: Tensor,
    noise_B2L: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sample every unknown token, keep the best, mask the rest again.

    Args:
        model: A model with codes, in evaluation mode.
        plan: Schedule, selection and steps.
        step: Number of the step, from 1.
        ids_BL: int64 tokens.
        masked_BL: bool, True where the token is unknown.
        unknown_B: Unknown tokens an image before the first step.
        noise_B2L: Uniform numbers in (0, 1): one a token to sample with, then one a token for the selection.

    Returns:
        The tokens, sampled ones among them, and what is unknown in the next step.

    Raises:
        ValueError: If logits are not finite, or the selection breaks its contract.
    """
    ids_BL, masked_BL, broken = _step(model, plan, step, ids_BL, masked_BL, unknown_B, noise_B2L, same=False)
    _refuse(broken, plan.selection)
    return ids_BL, masked_BL


def _step(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    unknown_B: Tensor,
    noise_B2L: Tensor,
    same: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`decode_step` without reading back: what is broken comes as a flag; `same` if all images are alike."""
    uniform_BL, noise_BL = noise_B2L.chunk(2, dim=1)
    sampled = _sample(model, ids_BL, masked_BL, uniform_BL, same)
    return _keep_best(model, plan, step, ids_BL, masked_BL, unknown_B, noise_BL, *sampled)


def _sample(model: Mage, ids_BL: Tensor, masked_BL: Tensor, uniform_BL: Tensor, same: bool) -> tuple[Tensor, Tensor]:
    """Return a sampled code and its log-probability for each unknown token; `same` if all images are alike."""
    images = 1 if same else len(ids_BL)
    if ids_BL.device.type != "cpu":
        logits_BLV = model.logits(ids_BL[:images], masked_BL[:images]).expand(len(ids_BL), -1, -1)
        return sample_tokens(logits_BLV, uniform_BL, masked_BL, backend=model.backend, check=False)
    # On a CPU sizes cost no waiting: head and sampling run on the unknown tokens alone.
    rows_M = masked_BL[:images].flatten().nonzero()[:, 0]
    logits_MV = model.logits(ids_BL[:images], masked_BL[:images], rows_M=rows_M)
    if same:
        logits_MV, rows_M = logits_MV.repeat(len(ids_BL), 1), masked_BL.flatten().nonzero()[:, 0]
    ids_1M, log_p_1M = sample_tokens(
        logits_MV[None], uniform_BL.flatten()[rows_M][None], backend=model.backend, check=False
    )
    sampled_BL, log_p_BL = torch.zeros_like(ids_BL), torch.zeros(ids_BL.shape)
    sampled_BL.view(-1)[rows_M], log_p_BL.view(-1)[rows_M] = ids_1M[0], log_p_1M[0]
    return sampled_BL, log_p_BL


def _keep_best(
    model: Mage,
    plan: Decoding,
    step: int,
    ids_BL: Tensor,
    masked_BL: Tensor,
    unknown_B: Tensor,
    noise_BL: Tensor,
    sampled_BL: Tensor,
    log_p_BL: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, what is unknown next, and whether (log-probabilities, scores) held NaN: a flag on the device."""
    ids_BL = torch.where(masked_BL, sampled_BL, ids_BL)
    count_B = plan.schedule.next_counts(unknown_B, masked_BL.sum(dim=1), step, plan.steps)
    score_BL = plan.selection.score(SelectionStep(step, plan.steps, model.spec.grid, log_p_BL, noise_BL))
    if not isinstance(score_BL, Tensor) or score_BL.shape != masked_BL.shape:
        shape = tuple(score_BL.shape) if isinstance(score_BL, Tensor) else type(score_BL).__name__
        name = type(plan.selection).__name__
        raise ValueError(f"selection: {name} returned {shape}, must be a tensor of shape {tuple(masked_BL.shape)}")
    broken = torch.stack([(torch.isnan(values) & masked_BL).any() for values in (log_p_BL, score_BL)])
    return ids_BL, remask(score_BL, masked_BL, count_B, backend=model.backend), broken


def _refuse(broken: Tensor, selection: Selection) -> None:
    """Raise for what decoding must not go on with; a selection that breaks its contract is a plug-in's bug, named."""
    logits, scores = broken.tolist()
    if logits:
        raise ValueError("logits: not finite, must be numbers (or -inf for a code that may not be drawn)")
    if scores:
        raise ValueError(f"selection: {type(selection).__name__} returned NaN, must be numbers")


@torch.no_grad()
def generate(
    model: Mage,
    n: int,
    *,
    seed: int = 0,
    steps: int | None = None,
    schedule: Schedule | None = None,
    selection: Selection | None = None,
    batch: int = 64,
    precision: Asked | None = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Make images from nothing.

    Args:
        model: A model with codes.
        n: How many.
        seed: Image i follows (seed, i) alone.
        steps: Decoding steps T; None for the model's own.
        schedule: None for the model's own.
        selection: None for the model's own.
        batch: Images at once.
        precision: "float32", "bfloat16", "auto" for bfloat16 where the processor has it and the model is wide enough,
            None for what autocast says around the call.
        on_progress: Called with (images x steps done, all of them).

    Raises:
        ValueError: If a count is below 1, or the model's output is not finite: never a black picture in silence.
    """
    for name, value in (("n", n), ("steps", 1 if steps is None else steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}: {value}, must be at least 1")
    if seed < 0:
        raise ValueError(f"seed: {seed}, must be at least 0")
    own = model.decoding
    plan = Decoding(schedule or own.schedule, selection or own.selection, steps or own.steps)
    length = model.spec.grid.size
    tokens, images = [], []
    with prepared(model, min(n, batch), precision):
        for start in range(0, n, batch):
            size = min(batch, n - start)
            known_BL = torch.zeros(size, length, dtype=torch.int64, device=model.device)

            def report(step: int, total: int, start: int = start, size: int = size) -> None:
                if on_progress is not None:
                    on_progress(start * total + size * step, n * total)

            everything = torch.ones_like(known_BL, dtype=torch.bool)
            ids_BL = decode_tokens(
                model, known_BL, everything, decoding=plan, seed=seed, first_index=start, on_step=report
            )
            tokens.append(ids_BL)
            images.append(to_images(model, ids_BL))
    return Generated(torch.cat(images), torch.cat(tokens))


def to_images(model: Mage, tokens: Tensor) -> Tensor:
    """Return the tokenizer's picture of tokens, float32 in [0, 1].

    Raises:
        ValueError: If a value is not finite.
    """
    images: Tensor = model.tokenizer.decode(tokens).float()
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: not finite; the tokenizer's weights are damaged or its training diverged")
    return images.clamp(0, 1)
