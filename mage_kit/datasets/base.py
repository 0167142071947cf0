"""What a data set is: images by index; augmentation follows (seed, epoch, index, view)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError
from mage_kit.base.plugin_code import foreign_code
from mage_kit.base.registry import Registry
from mage_kit.datasets.remarks import tell
from mage_kit.images.distortion import distort
from mage_kit.images.image_files import load_image, upright_size
from mage_kit.images.pixel_levels import Remark
from mage_kit.images.randaugment import randaugment
from mage_kit.images.transforms import Augment, centre_view, cut, random_crop, to_array

_LOOKED_AT = 8  # images of a plug-in's data whose pixels are part of what tells it from others


@dataclass(frozen=True)
class DatasetWires:
    """What the recipe wires into a data set: the tokenizer's image size (height, width) and channels."""

    image_size: tuple[int, int]
    channels: int


@dataclass(frozen=True)
class Sample:
    """One item.

    Args:
        views: uint8 arrays (C, H, W), or of a data set that gives tokens, tokens by stream: (L,), (L, F) or (L, W).
        label: Class number, or None where the data has no labels.
        index: Place in the data set.
        remarks: What to know of the image: that it is nearly black, or the first frame of an animation.
    """

    views: tuple[Any, ...]
    label: int | None
    index: int
    remarks: tuple[Remark, ...] = ()


class Dataset(ABC):
    """Images by index.

    Args:
        image_size: Height and width of the views, in pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        augment: How training views are made.

    Attributes:
        classes: Class names; empty where the data has no labels.
        max_broken: Largest share of images that training passes over because they cannot be used.
        streams: Names of the streams that views hold instead of images; empty where they are images.
        passed_over: (name, reason) of what the data set itself leaves out, as a file that is no image.
        levels: Of deep pictures, from black to white; None for those of their files' type.
        summary: What the images were chosen from, in a line; "" where that needs no words.
        credit: Whose the images are, and under which licence, where that must stand beside them; else "".
    """

    classes: tuple[str, ...] = ()
    max_broken: float = 0.0
    passed_over: Sequence[tuple[str, str]] = ()
    streams: tuple[str, ...] = ()
    levels: int | None = None
    summary: str = ""
    credit: str = ""

    def __init__(self, image_size: tuple[int, int], channels: int, augment: Augment) -> None:
        self.image_size, self.channels, self.augment = image_size, channels, augment

    @property
    def gives_tokens(self) -> bool:
        """True where views are tokens instead of images."""
        return bool(self.streams)

    def check_tokenizers(self, tokenizer: dict[str, Any], targets: dict[str, dict[str, Any]]) -> None:  # noqa: B027
        """Raise MageKitError if the views were made by other tokenizers; images are nobody's.

        Args:
            tokenizer: Of the model: kind and SHA-256 of the weights.
            targets: The same of other tokenizers, by name.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images, broken ones among them: what is broken shows when it is read."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return the stored image; best as Pillow opens it, with its pixels not yet decoded.

        Raises:
            BrokenImageError: If there is none.
        """

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Return the class number, or None."""

    def labels(self) -> NDArray[np.int64]:
        """Return the class numbers of all images.

        Raises:
            MageKitError: If an image has none.
        """
        labels = [self.label(index) for index in range(len(self))]
        count = sum(label is None for label in labels)
        if count:
            raise MageKitError(f"{count} of {len(self)} images have no label, each must have one here")
        return np.array(labels, dtype=np.int64)

    def name(self, index: int) -> str:
        """Return what a person finds the image by: a file's path."""
        return f"{type(self).__name__} {index}"

    def sample(self, index: int, epoch: int, seed: int) -> Sample:
        """Return the training views of an image; the same for the same (index, epoch, seed), whoever asks.

        Raises:
            BrokenImageError: If the image cannot be used.
        """
        augment, size = self.augment, self.image_size
        with self.image(index) as picture:
            whole = upright_size(picture)
            crops = [random_crop(whole, augment, _random(seed, epoch, index, view)) for view in range(augment.views)]
            widths, heights = zip(*(crop.least(size) for crop in crops), strict=True)
            least = (math.ceil(max(widths)), math.ceil(max(heights)))
            image, remarks = self._decode(picture, index, least)
        cuts = [cut(image, crop, size, augment.filter) for crop in crops]
        if augment.randaugment is not None:
            cuts = [
                randaugment(view, augment.randaugment, _random(seed, epoch, index, number, "randaugment"))
                for number, view in enumerate(cuts)
            ]
        if augment.distortion is not None:
            cuts = [
                distort(view, augment.distortion, _random(seed, epoch, index, number, "distortion"))
                for number, view in enumerate(cuts)
            ]
        return Sample(tuple(to_array(view) for view in cuts), self.label(index), index, remarks)

    def still(self, index: int) -> Sample:
        """Return the evaluation view of an image: nothing random.

        Raises:
            BrokenImageError: If the image cannot be used.
        """
        with self.image(index) as picture:
            image, remarks = self._decode(picture, index)
        view = centre_view(image, self.image_size, self.augment.filter, self.augment.centre)
        return Sample((to_array(view),), self.label(index), index, remarks)

    def _decode(
        self, picture: Image.Image, index: int, least: tuple[int, int] | None = None
    ) -> tuple[Image.Image, tuple[Remark, ...]]:
        remarks: list[Remark] = []
        image = load_image(picture, self.name(index), self.channels, least, levels=self.levels, remarks=remarks)
        tell(self, remarks)
        return image, tuple(remarks)

    def identity(self) -> dict[str, object]:
        """Return what tells this data from other data, for fingerprints; no image is decoded."""
        levels = {} if self.levels is None else {"levels": self.levels}
        return {"images": len(self), "classes": list(self.classes), **levels}


def fingerprint(dataset: Dataset) -> str:
    """Return a SHA-256 of what tells a data set from others."""
    return hashlib.sha256(json.dumps(identity_of(dataset), sort_keys=True).encode()).hexdigest()


def identity_of(dataset: Dataset) -> dict[str, object]:
    """Return what tells a data set from others; of a plug-in's, which may say little, its code and some pixels too."""
    identity, source = dict(dataset.identity()), dataset
    while isinstance(inner := getattr(source, "source", None), Dataset):
        source = inner
    if code := foreign_code([source]):
        identity |= {"code_sha256": code, "pixels_sha256": _some_pixels(source)}
    return identity


def _some_pixels(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for place in range(0, len(dataset), max(1, len(dataset) // _LOOKED_AT)):
        with contextlib.suppress(MageKitError):  # a broken one has none
            digest.update(b"".join(np.ascontiguousarray(view).tobytes() for view in _views(dataset, place)))
    return digest.hexdigest()


def _views(dataset: Dataset, place: int) -> list[np.ndarray]:
    sample = dataset.sample(place, 0, 0) if dataset.gives_tokens else dataset.still(place)
    return [part for view in sample.views for part in (view.values() if isinstance(view, dict) else [view])]


def _random(seed: int, epoch: int, index: int, view: int, purpose: str = "augment") -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, epoch, index, view)))


DATASETS: Registry[Dataset, DatasetWires] = Registry("datasets", Dataset, DatasetWires)
