"""Size and channels of a tokenizer, taken from the images before anything else where a recipe asks for it.

A recipe that ships does not know whose images it will meet. What it states serves photographs; smaller or grey images
are not enlarged or coloured: the tokenizer is made for them instead. What comes of it is a recipe like any other, with
nothing left to take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from mage_kit.base.errors import BrokenImageError, MageKitError, RecipeError
from mage_kit.datasets import Dataset
from mage_kit.images.image_files import upright_size
from mage_kit.recipes.answers import perceptual_kind
from mage_kit.recipes.recipe import Recipe

_LOOKED_AT = 64  # images, evenly spread
_THUMBNAIL = 32  # pixels a side that colours are looked at in
_GREY = 8  # of 255: channels that differ less are grey, whatever a camera's file says
_LOW = 10  # percent of the images may be smaller than what is taken


@dataclass(frozen=True)
class _Look:
    """What was seen of some images: how many, their short sides in pixels, and whether any has colour."""

    images: int
    sides: np.ndarray
    colour: bool


def fit_to_data(recipe: Recipe, images: Dataset | None = None) -> tuple[Recipe, list[str]]:
    """Return the recipe with what its `fit` names taken from its images, and `fit` empty; and a line that says so.

    Args:
        recipe: One that asks for nothing, or names a trained tokenizer, keeps what it states.
        images: Already cut for a tokenizer, whose size and channels they say; None looks at the recipe's.

    Raises:
        RecipeError: If there are no images, or the result cannot be built.
    """
    if not recipe.fit:
        return recipe, []
    stated = recipe.tokenizer.model_dump(mode="json")
    if stated["weights"] is not None:
        return recipe.extended(fit=[]), []
    if images is not None:
        stated |= {name: getattr(images, name) for name in recipe.fit}
        return recipe.extended(tokenizer=stated, fit=[]), []
    dataset = recipe.build_dataset()
    if dataset.streams:
        raise RecipeError(["$.fit: must be [] where the data are tokens, whose tokenizer is there"], recipe.name)
    look, words = _look_at(dataset), []
    if "image_size" in recipe.fit:
        side = _side(recipe, look)
        stated["image_size"] = [side, side]
        low, high = int(look.sides.min()), int(look.sides.max())
        words.append(f"{side} x {side} pixels (short sides of {look.images} images: {low:,} to {high:,})")
    if "channels" in recipe.fit:
        stated["channels"], why = _channels(recipe, look)
        words.append(f"{stated['channels']} channel{'s' if stated['channels'] > 1 else ''} ({why})")
    line = f"tokenizer as the images are: {', '.join(words)}"
    return recipe.extended(tokenizer=stated, fit=[]), [line]


def _look_at(dataset: Dataset) -> _Look:
    places = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _LOOKED_AT)).round().astype(int))
    sides, colour, last = [], False, ""
    for place in places:
        try:
            image = dataset.image(int(place))
            sides.append(min(upright_size(image)))
            colour = colour or _has_colour(image)
        except BrokenImageError as error:  # training counts and names them
            last = str(error)
    if not sides:
        raise MageKitError(f"data: no image could be read, of {len(places)}; the last: {last}")
    return _Look(len(sides), np.array(sides), colour)


def _has_colour(image: Image.Image) -> bool:
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;"):
        return False
    try:
        image.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))  # of a large JPEG, the eighth of its pixels
        small = image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenImageError("", str(error)) from None
    pixels = np.asarray(small, dtype=np.int16)
    return bool((pixels.max(axis=2) - pixels.min(axis=2)).max() >= _GREY)


def _side(recipe: Recipe, look: _Look) -> int:
    """The size that is stated, or less where images are smaller: in whole tokens, an even number of them."""
    with torch.device("meta"):
        tokenizer = recipe.build_tokenizer()
    stated = min(tokenizer.image_size)
    step = 2 * (tokenizer.image_size[0] // tokenizer.spec.grid.height)
    low = int(np.percentile(look.sides, _LOW))
    return stated if low >= stated else max(step, low // step * step)


def _channels(recipe: Recipe, look: _Look) -> tuple[int, str]:
    if look.colour:
        return 3, "they have colour"
    kind = perceptual_kind(recipe)
    return (1, "they are grey") if kind is None else (3, f"they are grey, and the perceptual distance {kind} is not")
