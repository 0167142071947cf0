"""Masked pictures filled in by a model of pixels (MAE): all patches at once.

Legend: L tokens, W values of a patch. `True = masked`.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from mage_kit.base.draws import keys, uniforms
from mage_kit.base.errors import PartsError
from mage_kit.editing.inputs import ImageLike, to_picture, to_pixels
from mage_kit.generation import prepare_to_generate
from mage_kit.losses import Loss
from mage_kit.models.mage import Mage


@torch.no_grad()
def predict_pixels(model: Mage, image: ImageLike, ratio: float = 0.75, *, seed: int = 0) -> list[Image.Image]:
    """Mask a share of a picture's patches and predict them in one pass (He et al., MAE, figure 2).

    Where the loss compares patches less their mean and over their deviation, the model predicts neither: the original's
    are used, as in MAE's own pictures.

    Args:
        model: A model that predicts the values of its tokens.
        image: Of the model's size.
        ratio: Share of the patches that are masked, in (0, 1]; rounded up.
        seed: Of the mask.

    Returns:
        The original, what is left of it, and the picture with its masked patches predicted.

    Raises:
        ValueError: If the ratio is outside its range, or the image of another size.
        PartsError: If the model predicts no values of the tokens that it sees.
    """
    if not model.predicts_values:
        rule = "predict_pixels needs a model that predicts the values of its tokens; reconstruct is for one that draws"
        raise PartsError(("model", "heads"), rule)
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: {ratio}, must lie in (0, 1]")
    tokenizer, length = model.tokenizer, model.spec.grid.size
    pixels_CHW = to_pixels(image, tokenizer.channels)
    images_1CHW = torch.from_numpy(pixels_CHW)[None].to(model.device, next(model.parameters()).dtype) / 255
    tokenizer.check_images(images_1CHW)
    tokens_1LW = tokenizer.encode(images_1CHW)
    noise_1L = uniforms(keys(seed, "reconstruct", torch.arange(1)), length)
    masked_1L = (noise_1L.argsort(dim=1).argsort(dim=1) < int(np.ceil(ratio * length - 1e-9))).to(model.device)
    with prepare_to_generate(model, 1):
        predicted_1LW = model.logits(tokens_1LW, masked_1L).to(tokens_1LW.dtype)
    for loss in model.losses:
        if isinstance(loss, Loss) and loss.reads_predictions and loss.stream == "tokens":
            predicted_1LW = loss.token_values(predicted_1LW, tokens_1LW)
    filled_1CHW = tokenizer.decode(torch.where(masked_1L[..., None], predicted_1LW, tokens_1LW))
    grey_1LW = tokenizer.encode(torch.full_like(images_1CHW, 0.5))
    left_1CHW = tokenizer.decode(torch.where(masked_1L[..., None], grey_1LW, tokens_1LW))
    pictures = [rearrange(each, "1 c h w -> c h w").float().clamp(0, 1).cpu() for each in (left_1CHW, filled_1CHW)]
    return [to_picture(pixels_CHW), *(to_picture((each * 255).round().to(torch.uint8).numpy()) for each in pictures)]
