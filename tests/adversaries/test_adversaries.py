"""The networks that judge: sizes as published, shapes, pictures that are too small."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mage_kit as mk
from mage_kit.adversaries import AdversaryWires, build_adversary
from mage_kit.adversaries.base import blur_halved


def built(kind: str, side: int, channels: int = 3, tokens: int | None = None, **keywords: Any) -> mk.Adversary:
    grid = tokens or side // 16 or 1
    with torch.device("meta"):
        return build_adversary(
            mk.ADVERSARIES.parse({"kind": kind, **keywords}), AdversaryWires(channels, (side, side), (grid, grid))
        )


PUBLISHED = [
    ("patchgan", {"norm": "batch"}, 256, 2_765_633),
    ("vqgan_plus", {}, 256, 7_431_297),
    ("stylegan", {}, 256, 23_998_017),
]


@pytest.mark.parametrize(("kind", "keywords", "side", "count"), PUBLISHED)
def test_as_many_weights_as_published(kind: str, keywords: dict[str, Any], side: int, count: int) -> None:
    assert sum(value.numel() for value in built(kind, side, **keywords).parameters()) == count


@pytest.mark.parametrize(
    ("kind", "side", "shape"),
    [
        ("patchgan", 256, (1, 30, 30)),
        ("patchgan", 64, (1, 6, 6)),
        ("patchgan", 32, (1, 2, 2)),
        ("vqgan_plus", 256, (1, 16, 16)),
        ("vqgan_plus", 64, (1, 4, 4)),
        ("stylegan", 64, (1,)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_judgements_have_the_published_shape(kind: str, side: int, shape: tuple[int, ...], channels: int) -> None:
    judgements = built(kind, side, channels)(torch.rand(2, channels, side, side, device="meta"))
    assert tuple(judgements.shape) == (2, *shape)


@pytest.mark.parametrize(("kind", "side", "words"), [
    ("patchgan", 16, "24 pixels"), ("stylegan", 4, "8 pixels"), ("stylegan", 48, "power of two"),
])  # fmt: skip
def test_pictures_that_are_too_small_are_refused_in_a_sentence(kind: str, side: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        built(kind, side)


def test_the_blur_is_the_binomial_of_four() -> None:
    images = torch.rand(2, 3, 8, 10)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(line, line).expand(3, 1, 4, 4)
    by_hand = F.conv2d(F.pad(images, (1, 1, 1, 1)), kernel, stride=2, groups=3)
    torch.testing.assert_close(blur_halved(images), by_hand)


def test_batch_norm_is_an_option_and_group_norm_the_default() -> None:
    names = {type(part).__name__ for part in built("patchgan", 64).modules()}
    assert "GroupNorm" in names and "BatchNorm2d" not in names


@pytest.mark.parametrize("kind", ["patchgan", "vqgan_plus", "stylegan"])
def test_second_gradients_exist(kind: str) -> None:
    """R1 needs the gradient of a gradient, in weights too."""
    torch.manual_seed(0)
    keywords = {"width": 32} if kind != "stylegan" else {"widest": 16}
    wires = AdversaryWires(3, (32, 32), (4, 4))
    adversary = build_adversary(mk.ADVERSARIES.parse({"kind": kind, **keywords}), wires)
    images = torch.rand(2, 3, 32, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(adversary(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert sum(float(value.grad.abs().sum()) for value in adversary.parameters() if value.grad is not None) > 0
