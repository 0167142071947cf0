"""Images from nothing: in one call, or batch by batch for as long as another program wants them.

Legend: B images, L tokens.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, Unpack

import torch
from torch import Tensor

from mage_kit.base.checks import whole_number
from mage_kit.base.doors import trusted
from mage_kit.base.errors import MageKitError
from mage_kit.generation.loop import Step, Trace, Watch, decode_tokens
from mage_kit.generation.preparation import Asked, prepare_to_generate
from mage_kit.generation.sampling import check_decoding
from mage_kit.images.pictures import grid_picture, save_picture
from mage_kit.layers.condition import Condition, checked_labels, labels_in_turn
from mage_kit.models.decoding import DecodingChanges
from mage_kit.models.mage import Mage

_MOST = 1_000_000
LAST = 2**62  # an image's number is an int64

Labels = SupportsIndex | Sequence[SupportsIndex] | None
"""A class for all images; a class for each, in turn if there are fewer; None for every class in turn. -1: no class."""


@dataclass(frozen=True)
class Generated:
    """What decoding made.

    Args:
        images_BCHW: float32 images in [0, 1].
        ids_BL: Their tokens: int64 ids (B, L) or (B, L, F), or float32 values (B, L, W).
        log_p_BL: Confidence of each token in the step that kept it, float32 log-probabilities; 0 for known ones.
        labels_B: Their classes, int64 on the CPU; None of an unconditional model.
        trace: Every step, where asked for.
    """

    images_BCHW: Tensor
    ids_BL: Tensor
    log_p_BL: Tensor
    labels_B: Tensor | None = None
    trace: Trace | None = None

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


def generate(
    model: Mage,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    labels: Labels = None,
    batch: int = 64,
    precision: Asked | None = "auto",
    trace: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
    **changes: Unpack[DecodingChanges],
) -> Generated:
    """Make images from nothing.

    Args:
        model: A model that generates.
        n: How many, all in memory at once: at most a million; a `Sampler` has no end, `write_samples` writes them.
        seed: Image i follows (seed, i) alone.
        first: Number of the first image.
        labels: Of conditional models; see `Labels`.
        batch: Images at once.
        precision: "float32", "bfloat16", "auto" for bfloat16 where the processor has it and the model is wide enough,
            None for what autocast says around the call.
        trace: Whether every step is kept.
        on_progress: Called with (images x steps done, all of them).
        watch: Shown the canvas of the images at hand after each step.
        changes: What to change of the model's own decoding: schedule, selection, steps, token_temperature, top_k,
            top_p, guidance; see `Decoding`.

    Raises:
        ValueError: If a number is outside its range, or the model's output is not finite: never a black picture in
            silence.
    """
    n, batch = whole_number("n", n, 1, _MOST), whole_number("batch", batch, 1)
    source = Sampler(model, seed=seed, first=first, labels=labels, batch=batch, precision=precision, **changes)
    batches: list[Generated] = []
    with prepare_to_generate(model, min(n, batch), precision):  # around all batches: weights are laid out once
        for start in range(0, n, batch):
            size = min(batch, n - start)

            def report(step: Step, start: int = start, size: int = size) -> None:
                if on_progress is not None:
                    on_progress(start * step.steps + size * step.number, n * step.steps)
                if watch is not None:
                    watch(step)

            batches.append(source.make(first + start, size, trace=trace, watch=report))
    return _join(batches)


class Sampler:
    """Images for another program, batch after batch without end.

    Several threads may share one, or use several of one model: each batch is handed out once, image i is the same in
    whatever thread, and nothing is kept but a count. Gradients are not tracked.

        for samples in mk.Sampler(model, batch=16):
            ...  # samples.images_BCHW

    Args:
        model: A model that generates; stays where it is, and in its mode.
        batch: Images at once.
        seed: Image i follows (seed, i) alone.
        first: Index of the first image.
        labels: Of conditional models; see `Labels`.
        precision: As in `generate`.
        changes: As in `generate`.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(
        self,
        model: Mage,
        *,
        batch: int = 16,
        seed: int = 0,
        first: int = 0,
        labels: Labels = None,
        precision: Asked | None = "auto",
        **changes: Unpack[DecodingChanges],
    ) -> None:
        self.model, self.precision = model, precision
        self.batch, self.seed, first = (
            whole_number("batch", batch, 1),
            whole_number("seed", seed, 0),
            whole_number("first", first, 0, LAST),
        )
        self.decoding = model.decoding.changed(changes)
        check_decoding(model, self.decoding)
        self.labels = chosen_labels(model, labels)
        self._next, self._lock = first, threading.Lock()

    def __iter__(self) -> Iterator[Generated]:
        """Return itself."""
        return self

    def __next__(self) -> Generated:
        """Return the next batch."""
        with self._lock:
            start, self._next = self._next, self._next + self.batch
        return self.make(start, self.batch)

    def make(self, start: int, count: int, *, trace: bool = False, watch: Watch | None = None) -> Generated:
        """Return images `start` to `start + count - 1`, whatever was made before.

        Args:
            start: Index of the first image.
            count: How many, at once.
            trace: Whether every step is kept.
            watch: Shown the canvas after each step.
        """
        model = self.model
        with prepare_to_generate(model, count, self.precision):
            known_BL = torch.zeros(model.spec.shape(count), dtype=model.spec.dtype, device=model.device)
            labels_B = self._labels_of(start, count)
            result = decode_tokens(
                model,
                known_BL,
                torch.ones(known_BL.shape[:2], dtype=torch.bool, device=model.device),
                decoding=self.decoding,
                seed=self.seed,
                first_index=start,
                condition=None if labels_B is None else Condition(labels_B.to(model.device)),
                trace=trace,
                watch=watch,
            )
            images = to_images(model, result.ids_BL)
        return Generated(images, result.ids_BL, result.log_p_BL, labels_B, result.trace)

    def _labels_of(self, start: int, count: int) -> Tensor | None:
        if self.labels is None:
            return None
        return torch.tensor([self.labels[index % len(self.labels)] for index in range(start, start + count)])


def chosen_labels(model: Mage, labels: Labels) -> list[int] | None:
    """Return the classes that images take in turn; None of an unconditional model.

    Raises:
        ValueError: If a label is no class, or the model knows none.
    """
    classes = model.classes
    if classes is None:
        if labels is not None:
            raise ValueError(f"labels: given, but {type(model.decoder).__name__} takes none")
        return None
    request = labels_in_turn(0, classes, classes) if labels is None else labels
    numbers = checked_labels([request] if isinstance(request, SupportsIndex) else list(request), classes)
    if not numbers:
        raise ValueError("labels: none given, must be at least one")
    return numbers


def _join(batches: list[Generated]) -> Generated:
    """Return batches as one."""
    labels = [part.labels_B for part in batches if part.labels_B is not None]
    return Generated(
        torch.cat([part.images_BCHW for part in batches]),
        torch.cat([part.ids_BL for part in batches]),
        torch.cat([part.log_p_BL for part in batches]),
        torch.cat(labels) if labels else None,
        Trace.join(part.trace for part in batches),
    )


@trusted()
def to_images(model: Mage, tokens: Tensor) -> Tensor:
    """Return the tokenizer's picture of tokens, float32 in [0, 1].

    Raises:
        ValueError: If the pictures are not of the tokenizer's size, or a value is not finite.
    """
    tokenizer = model.tokenizer
    images: Tensor = tokenizer.decode(tokens).float()
    shape = (len(tokens), tokenizer.channels, *tokenizer.image_size)
    if tuple(images.shape) != shape:
        form = f"{type(tokenizer).__name__}.decode gave {tuple(images.shape)}"
        raise ValueError(f"images: {form}, must be {shape}: images, channels, and image_size")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: not finite; the tokenizer's weights are damaged or its training diverged")
    return images.clamp(0, 1)
