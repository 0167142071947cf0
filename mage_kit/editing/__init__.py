"""Editing: pictures whose tokens are partly known; reconstruct, inpaint, outpaint, uncrop."""

from mage_kit.editing.edit import Edited, inpaint, outpaint, reconstruct, uncrop
from mage_kit.editing.fills import FILLS
from mage_kit.editing.inputs import ImageLike, to_mask, to_picture, to_pixels
from mage_kit.editing.pixels import predict_pixels
from mage_kit.editing.settings import EditOptions, EditSettings

__all__ = [
    "FILLS",
    "EditOptions",
    "EditSettings",
    "Edited",
    "ImageLike",
    "inpaint",
    "outpaint",
    "predict_pixels",
    "reconstruct",
    "to_mask",
    "to_picture",
    "to_pixels",
    "uncrop",
]
