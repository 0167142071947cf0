"""What the page does, without the page: drawn strokes to a mask, pictures step by step.

Legend: H x W pixels. `True = masked`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops

from mage_kit.base.checks import whole_number
from mage_kit.base.errors import MageKitError
from mage_kit.editing import Edited, inpaint
from mage_kit.generation import Sampler, Step, Watch
from mage_kit.generation.animation import canvas
from mage_kit.images.pictures import grid_picture
from mage_kit.models.mage import Mage
from mage_kit.selections import SELECTIONS

LARGEST_SEED = 2**63 - 2
_DRAWN = 320  # pixels: smaller pictures are enlarged, so that one can draw on them
_ALIKE = 2.0  # of 255
_LARGEST = 1024  # longer side of a picture that is uploaded; larger ones are reduced


@dataclass(frozen=True)
class Wish:
    """What the controls say.

    Args:
        steps: Decoding steps.
        temperature: Of the confidence's noise, where the run's selection has one.
        token_temperature: Of drawing tokens.
        dilate: Rings of cells around the hole.
        variants: How many.
        seed: Of the noise.
    """

    steps: int
    temperature: float
    token_temperature: float
    dilate: int
    variants: int
    seed: int

    @classmethod
    def of(cls, controls: Sequence[Any]) -> Wish:
        """Read the controls, in the order of the fields.

        Raises:
            ValueError: If one is no number, or out of its range.
        """
        steps, temperature, tokens, dilate, variants, seed = controls
        return cls(
            whole_number("steps", steps, 1, 64),
            _number("temperature", temperature, 20),
            _number("token temperature", tokens, 2),
            whole_number("cells around the hole", dilate, 0, 3),
            whole_number("variants", variants, 1, 8),
            whole_number("seed", seed or 0, 0, LARGEST_SEED),
        )


def _number(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise MageKitError(f"{name}: {str(value)[:50]}, must be a number between 0 and {most}")
    return float(value)


@dataclass(frozen=True)
class Shown:
    """What the page shows at a moment.

    Args:
        canvas: The model's window after a step, or the first result.
        results: The variants; empty until they are all done.
        line: A line of text.
    """

    canvas: Image.Image
    results: list[Image.Image]
    line: str


def enlarged(picture: Image.Image) -> Image.Image:
    """Return a picture large enough to draw on, by a whole factor, its pixels as they are."""
    factor = max(1, _DRAWN // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether two pictures are the same but for what a browser's drawing changes."""
    if first.size != second.size:
        return False
    difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return float(np.asarray(difference).mean()) < _ALIKE


def reduced(picture: Image.Image) -> Image.Image:
    """Return an uploaded picture no larger than the page handles well."""
    factor = _LARGEST / max(picture.size)
    if factor >= 1:
        return picture
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def drawn_mask(layers: list[Image.Image], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where any stroke lies, (H, W): a pixel of the picture is masked if any part of it was drawn over.

    Args:
        layers: What was drawn, transparent elsewhere.
        size: Height and width of the picture.
    """
    mask = np.zeros(size, dtype=np.bool_)
    for layer in layers:
        alpha = torch.from_numpy(np.array(layer.convert("RGBA"))[..., 3])[None].float()
        mask |= (torch.nn.functional.adaptive_max_pool2d(alpha, size)[0] > 0).numpy()
    return mask


def sample(model: Mage, seed: int) -> Image.Image:
    """Return a picture that the model makes from nothing."""
    return grid_picture(Sampler(model, batch=1, seed=seed).make(0, 1).images_BCHW, 1)


def paint(model: Mage, picture: Image.Image, drawing: Mapping[str, Any], wish: Wish) -> Iterator[Shown]:
    """Paint what is drawn over anew; yield the canvas after each step, then the results.

    Args:
        model: A model that generates.
        picture: As it is, not enlarged.
        drawing: What the editor holds: "layers" with the strokes.
        wish: The controls.

    Raises:
        ValueError: If nothing is drawn, or a setting breaks its rule.
    """
    mask = drawn_mask(list(drawing.get("layers") or []), (picture.height, picture.width))
    if not mask.any():
        raise ValueError("Draw on the picture first: what you cover is painted anew.")
    own = model.decoding.selection
    selection = SELECTIONS.changed(own, temperature=wish.temperature) if hasattr(own, "temperature") else own

    def work(watch: Watch) -> Edited:
        return inpaint(
            model,
            picture,
            mask,
            n=wish.variants,
            seed=wish.seed,
            steps=wish.steps,
            selection=selection,
            token_temperature=wish.token_temperature,
            dilate=wish.dilate,
            watch=watch,
        )

    edit = yield from _follow(model, work)
    unknown = int(edit.masked_NL[0].sum())
    line = f"{unknown} of {edit.masked_NL.shape[1]} tokens painted anew in {wish.steps} steps"
    if edit.frame.scale > 1.05:
        line += f"; the window is {edit.frame.scale:.1f} times the model's size, so what is new is less sharp"
    yield Shown(enlarged(edit.pictures[0]), [enlarged(result) for result in edit.pictures], line)


class _Gone(Exception):
    """Nobody watches any more."""


def _follow(model: Mage, work: Callable[[Watch], Edited]) -> Generator[Shown, None, Edited]:
    """Yield the first variant's canvas while a thread decodes; return what it made."""
    steps: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
    gone = threading.Event()

    def watch(step: Step) -> None:
        if gone.is_set():
            raise _Gone
        if step.first == 0:
            image = canvas(model, step.ids_BL[:1], step.masked_BL[:1])
            count = int(step.masked_BL[0].sum())
            line = f"step {step.number} of {step.steps}: {count} tokens left"
            steps.put(Shown(enlarged(grid_picture(image, 1)), [], line))

    def end(_: Future[Edited]) -> None:
        steps.put(None)

    with ThreadPoolExecutor(1, "painting") as pool:
        job = pool.submit(work, watch)
        job.add_done_callback(end)
        try:
            while (state := steps.get()) is not None:
                yield state
        finally:
            gone.set()  # the page was closed: stop at the next step
        return job.result()
