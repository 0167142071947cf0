"""Chroma: what of a picture is colour and not brightness; Cb and Cr of ITU-R BT.601.

Legend: I images, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows: Cb and Cr of RGB. Each sums to 0, so grey has none, and a change of brightness changes none.
_CHROMA = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def chroma(images_I3HW: Tensor) -> Tensor:
    """Return Cb and Cr in [-0.5, 0.5], (I, 2, H, W), of RGB images in [0, 1]; gradients pass."""
    return torch.einsum("oc,ichw->iohw", images_I3HW.new_tensor(_CHROMA), images_I3HW)
