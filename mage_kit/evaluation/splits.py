"""What is learned from and what is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.subset import Subset
from mage_kit.images.transforms import Augment

TESTS = ("val", "test", "validation")
_FIFTH = 5
_LARGE = 128  # pixels


@dataclass(frozen=True)
class Split:
    """Labelled images, in two parts.

    Args:
        train: To learn from.
        test: To test on.
        words: What they are, for people.
    """

    train: Dataset
    test: Dataset
    words: str

    def __post_init__(self) -> None:
        """Raise MageKitError for fewer than two classes: whatever is told of one, it is right."""
        if len(self.train.classes) < 2:
            raise MageKitError(f"data: {self.words}: {len(self.train.classes)} class, must have at least two")

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.train.classes)


def published_views(own: Augment | None, image_size: tuple[int, int]) -> Augment:
    """Return how the paper's evaluations see images: bicubic, crops of a fifth at least, tests on the centre 256 of a
    short side of 292. Small images, of which a margin may be half of what there is, keep a run's own crops.

    Args:
        own: Of the run; None for a model without data.
        image_size: Of the model.
    """
    if own is not None and min(image_size) < _LARGE:
        return own.model_copy(update={"views": 1, "filter": "bicubic", "randaugment": None, "distortion": None})
    return Augment(area=(0.2, 1.0), flip=0.5, filter="bicubic", centre=256 / 292)


def folder_split(
    root: Path,
    image_size: tuple[int, int],
    channels: int,
    augment: Augment,
    seed: int = 0,
    *,
    levels: int | None = None,
) -> Split:
    """Return a folder's own parts, train/ beside val/ or test/; else a fifth of each class is set aside.

    Args:
        root: Holds train/ and val/ with class folders, or class folders.
        image_size: Height and width of the model's images.
        channels: Of the model's images.
        augment: How views are made.
        seed: Of what is set aside.
        levels: Of deep pictures, from black to white; None for those of their files' type.

    Raises:
        MageKitError: If it is no such folder, or the parts have other classes.
    """
    if not root.is_dir():
        raise MageKitError(f"data: '{root}', must be a folder of class folders, or of train/ and val/")
    train = root / "train"
    open_folder = partial(ImageFolder, image_size, channels, augment=augment, levels=levels)
    if not train.is_dir():
        whole = open_folder(path=str(root))
        return held_out(whole, seed, str(root))
    test = next((root / name for name in TESTS if (root / name).is_dir()), None)
    if test is None:
        raise MageKitError(f"data: '{root}', has train/ but none of {', '.join(TESTS)} beside it")
    parts = [open_folder(path=str(place)) for place in (train, test)]
    if parts[0].classes != parts[1].classes:
        other = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise MageKitError(f"data: '{root}', train/ and {test.name}/ have other classes, '{other[0]}' in one of them")
    return Split(parts[0], parts[1], f"{root}: train/ and {test.name}/")


def held_out(dataset: Dataset, seed: int = 0, what: str = "all images") -> Split:
    """Set a fifth of each class aside, drawn from the seed.

    Args:
        dataset: Labelled images.
        seed: Of the draw.
        what: The images are, for people.

    Raises:
        MageKitError: If images have no labels, or a class has fewer than five images.
    """
    if not dataset.classes:
        raise MageKitError("data: has no labels; name labelled images with --data")
    labels = dataset.labels()
    test: list[int] = []
    for number, name in enumerate(dataset.classes):
        places = np.flatnonzero(labels == number)
        if len(places) < _FIFTH:
            raise MageKitError(f"data: class '{name}' has {len(places)} images, must have at least {_FIFTH}")
        random = np.random.Generator(np.random.PCG64(derive(seed, "held-out", number)))
        test += random.permutation(places)[: len(places) // _FIFTH].tolist()
    aside = set(test)
    train = [index for index in range(len(dataset)) if index not in aside]
    return Split(
        Subset(dataset, train), Subset(dataset, sorted(test)), f"{what}: a fifth of each class set aside, seed {seed}"
    )
