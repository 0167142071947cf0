"""Whether reconstructions have the colours of their images.

Squared error is carried by brightness: a tokenizer with few codes gives it back well and paints all in a few hues.
Chroma tells: Cb and Cr, whose correlation over all pixels is 1 where hues are right, 0 where they are chance.

Legend: I images, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mage_kit.images.chroma import chroma

_TINY = 1e-9  # variance below which images have no colour to be compared


class ColourCheck:
    """Sums over images, of which correlations of chroma follow."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = torch.zeros(5, 2, dtype=torch.float64)  # x, y, xx, yy, xy of Cb and Cr
        self.means = torch.zeros(2, 3, dtype=torch.float64)  # of the channels, of images and reconstructions

    def add(self, images_I3HW: Tensor, rebuilt_I3HW: Tensor) -> None:
        """Take in images (I, 3, H, W) and their reconstructions, uint8."""
        colours, means = [], []
        for pixels in (images_I3HW, rebuilt_I3HW):
            unit = pixels.double() / 255
            colours.append(chroma(unit).transpose(0, 1).flatten(1))
            means.append(unit.sum(dim=(0, 2, 3)))
        x, y = colours
        parts = torch.stack([x.sum(dim=1), y.sum(dim=1), (x * x).sum(dim=1), (y * y).sum(dim=1), (x * y).sum(dim=1)])
        self.sums += parts.cpu()
        self.means += torch.stack(means).cpu()
        self.count += x.shape[1]

    @property
    def correlation(self) -> float | None:
        """The lesser of both correlations of chroma, in [-1, 1]; None where the images are without colour."""
        x, y, xx, yy, xy = (self.sums / max(1, self.count)).unbind()
        variances = (xx - x * x), (yy - y * y)
        if float(variances[0].min()) < _TINY:
            return None
        spread = (variances[0] * variances[1].clamp_min(_TINY)).sqrt()
        return float(((xy - x * y) / spread).min())

    @property
    def shift(self) -> float:
        """Largest difference of a channel's mean, of 1."""
        return float((self.means[0] - self.means[1]).abs().max() / max(1, self.count))
