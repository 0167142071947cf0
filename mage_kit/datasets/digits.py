"""scikit-learn's handwritten digits: 1,797 real 8 x 8 grey images of ten classes (UCI, CC BY 4.0)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from mage_kit.base.errors import MageKitError, MissingExtraError
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.held_out import Part, is_in_part
from mage_kit.images.transforms import Augment

_NINTH = 9  # of every so many digits one is held out


@DATASETS.register("digits")
class Digits(Dataset):
    """The embedded default: real data without a download; enlarged to the tokenizer's image size.

    Args:
        part: "all"; or "training" without every ninth digit, and "held_out" with these alone: 200 of scikit-learn's.
        path: CSV file (also .gz) of 64 values from 0 to 16 and a label a line, as scikit-learn's own; null: that one.
        augment: How training views are made; digits should not be flipped.
    """

    classes = tuple("0123456789")

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        part: Part = "all",
        path: str | None = None,
        augment: Augment = Augment(area=(0.8, 1.0), aspect=(0.9, 1.1), flip=0.0, filter="bicubic"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.part, self.path = part, path
        values, labels = _from_sklearn() if path is None else _from_csv(Path(path))
        rows = [is_in_part(part, place % _NINTH == _NINTH // 2) for place in range(len(labels))]
        values, labels = values[rows], labels[rows]
        self._pixels = np.round(values * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 8, 8)
        self._labels = labels.astype(np.int64)

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self._labels)

    def image(self, index: int) -> Image.Image:
        """Return the 8 x 8 grey image."""
        return Image.fromarray(self._pixels[index])

    def identity(self) -> dict[str, object]:
        """Return the number of digits and a hash of their pixels and labels."""
        content = hashlib.sha256(self._pixels.tobytes() + self._labels.tobytes()).hexdigest()
        return {**super().identity(), "content_sha256": content}

    def label(self, index: int) -> int:
        """Return the digit."""
        return int(self._labels[index])


def _from_sklearn() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("data set 'digits'", "digits") from None
    values, labels = load_digits(return_X_y=True)
    return values, labels


def _from_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise MageKitError(f"path: {path}, must be a readable CSV file of numbers ({error})") from None
    if table.shape[1] != 65 or len(table) == 0 or table[:, :64].min() < 0 or table[:, :64].max() > 16:
        raise MageKitError(
            f"path: {path}, must hold 64 values from 0 to 16 and a label a line, has shape {table.shape}"
        )
    return table[:, :64], table[:, 64]
