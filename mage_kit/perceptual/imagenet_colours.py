"""How torchvision's networks take pictures: less ImageNet's mean colour, by its deviation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageNetColours(nn.Module):
    """RGB in [0, 1] (B, 3, H, W) as these networks were trained on it."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406))[:, None, None])
        self.register_buffer("deviation", torch.tensor((0.229, 0.224, 0.225))[:, None, None])

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return the same pictures, normalised."""
        return (images_B3HW - self.mean) / self.deviation
