"""Chroma by its definition."""

from __future__ import annotations

import numpy as np
import torch

from mage_kit.images.chroma import chroma


def test_chroma_is_blue_and_red_less_brightness() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    red, green, blue = images.double().numpy().transpose(1, 0, 2, 3)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    by_hand = np.stack([(blue - grey) / 1.772, (red - grey) / 1.402], axis=1)
    np.testing.assert_allclose(chroma(images).numpy(), by_hand, atol=1e-6)


def test_grey_has_none_and_gradients_pass() -> None:
    images = torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1).clone().requires_grad_()
    values = chroma(images)
    assert float(values.detach().abs().max()) < 1e-6
    values[:, 0].sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert images.grad is not None and float(images.grad[:, 2].min()) > 0.49
