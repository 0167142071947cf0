"""What a run's model makes of pictures in part covered: reconstructions and inpaintings.

Legend: H x W pixels. `True = masked`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mage_kit.editing import inpaint, predict_pixels, reconstruct
from mage_kit.images.image_files import to_channels
from mage_kit.models.mage import Mage
from mage_kit.report.content import Part, picture, scale_of

IMAGES = 4
RATIOS = (0.5, 0.75, 0.9)
VARIANTS = 3


def reconstructions(models: dict[str, Mage], pictures: Sequence[Image.Image], where: str) -> Part:
    """Mask a share of the tokens and fill them in again, by each model: paper, figure 2."""
    part = Part("Reconstruction", f"{where}. Masked tokens are grey; each picture is masked at random.")
    for ratio in RATIOS:
        for name, model in models.items():
            rows = [_reconstruct(model, image, ratio, number) for number, image in enumerate(pictures)]
            sheet = _columns(rows)
            caption = f"{name}: {ratio:.0%} masked; original, what is left, filled in"
            if not model.generates:
                caption += (
                    " (predicted at once; mean and contrast of a patch are the original's where it predicts neither)"
                )
            part.pictures.append(picture(sheet, caption, max(1, scale_of(model.tokenizer) // 2)))
    return part


def _reconstruct(model: Mage, image: Image.Image, ratio: float, seed: int) -> list[Image.Image]:
    """Return original, what is left, and filled in, at the model's size."""
    channels, (height, width) = model.tokenizer.channels, model.tokenizer.image_size
    original = image.resize((width, height), Image.Resampling.BICUBIC) if image.size != (width, height) else image
    original = to_channels(original, channels)
    if not model.generates:
        return predict_pixels(model, original, ratio, seed=seed)
    result = reconstruct(model, original, ratio, seed=seed)
    grid = model.spec.grid
    cells = result.masked_NL[0].unflatten(0, (grid.height, grid.width)).numpy()
    veil = cells.repeat(height // grid.height, 0).repeat(width // grid.width, 1)
    pixels = np.asarray(result.window)
    remainder = np.where(veil if channels == 1 else veil[..., None], np.uint8(128), pixels)
    return [result.window, Image.fromarray(remainder), result.pictures[0]]


def inpaintings(model: Mage, pictures: Sequence[Image.Image]) -> Part:
    """Paint half of each picture anew."""
    part = Part("Inpainting", f"Half of each picture is painted anew, {VARIANTS} times.")
    for name, start in (("right half", (0, 1)), ("lower half", (1, 0))):
        rows = []
        for number, image in enumerate(pictures):
            hole = np.zeros((image.height, image.width), dtype=np.bool_)
            hole[start[0] * image.height // 2 :, start[1] * image.width // 2 :] = True
            result = inpaint(model, image, hole, n=VARIANTS, seed=number, dilate=0)
            rows.append([result.canvas, *result.pictures])
        part.pictures.append(
            picture(_columns(rows), f"{name}: what was given, three variants", max(1, scale_of(model.tokenizer) // 2))
        )
    return part


def _columns(rows: Sequence[Sequence[Image.Image]], gap: int = 2) -> Image.Image:
    """Lay rows of equal pictures out, two rows beside each other where there are many."""
    width, height = rows[0][0].size
    across = len(rows[0])
    canvas = Image.new(
        rows[0][0].mode, ((width + gap) * across * 2 + gap * 3, (height + gap) * -(-len(rows) // 2)), "white"
    )
    for number, row in enumerate(rows):
        left = (number % 2) * ((width + gap) * across + gap * 3)
        for column, image in enumerate(row):
            canvas.paste(image, (left + column * (width + gap), (number // 2) * (height + gap)))
    return canvas
