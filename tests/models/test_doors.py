"""Every public call that takes images or tokens looks at them alike, and names in a sentence what it found and owed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.base.doors import ROUNDING, trusted
from mage_kit.layers.embedding import open_plan
from tests import build


def images(channels: int = 1) -> Tensor:
    return torch.rand(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def classifier() -> mk.MageClassifier:
    encoder = mk.ViTEncoder(dim=32, depth=1, heads=4)
    return mk.MageClassifier(tokenizer=build.vqgan(), encoder=encoder, classes=3).eval()


PIXELS: dict[str, Callable[[], Callable[[Tensor], object]]] = {
    "vqgan.encode": lambda: build.vqgan().eval().encode,
    "vqgan.features": lambda: build.vqgan().eval().features,
    "taming.encode": lambda: build.taming().eval().encode,
    "patches.encode": lambda: mk.Patches(image_size=(16, 16), channels=1, patch=4).encode,
    "mage.features": lambda: build.mage().eval().features,
    "mage.tokenize": lambda: build.mage().eval().tokenize,
    "classifier.logits": lambda: classifier().logits,
}
WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "normalised": (
        lambda x: x * 2 - 1,
        r"images: values from -0\.99\d* to 0\.99\d*, must lie in \[0, 1\]; undo the norm",
    ),
    "bytes": (lambda x: x * 255, r"images: values from \S+ to 25\d\.\d*, must lie in \[0, 1\]; divide bytes by 255"),
    "by mean and deviation": (lambda x: (x - 0.45) / 0.22, r"must lie in \[0, 1\]; (undo|divide)"),
    "not a number": (lambda x: torch.where(x > 0.5, x, torch.nan), "images: holds values that are not finite"),
    "infinite": (lambda x: torch.where(x > 0.5, x, torch.inf), "images: holds values that are not finite"),
    "whole numbers": (lambda x: (x * 255).to(torch.uint8), r"torch\.uint8, must be floating"),
    "another size": (lambda x: x[..., :12], r"must be floating \(B, 1, 16, 16\)"),
}


@pytest.mark.parametrize("door", PIXELS)
@pytest.mark.parametrize("wrong", WRONG)
def test_images_out_of_range_are_named(door: str, wrong: str) -> None:
    change, rule = WRONG[wrong]
    with pytest.raises(ValueError, match=rule):
        PIXELS[door]()(change(images()))


@pytest.mark.parametrize("door", PIXELS)
def test_what_rounding_explains_passes(door: str) -> None:
    call = PIXELS[door]()
    call(images())
    call(images() * (1 + 0.9 * ROUNDING))
    call(images().bfloat16().float())
    with torch.no_grad():
        call(images()[:0])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda ids: ids + 20, r"tokens: ids from 20 to 5\d, must be from 0 to 31"),
        (lambda ids: ids - 1, "tokens: ids from -1 to"),
        (lambda ids: ids.int(), r"tokens: \(2, 16\) int32, must be int64 ids \(B, 16\)"),
        (lambda ids: ids.float(), r"float32, must be int64 ids"),
        (lambda ids: ids[:, :9], r"tokens: \(2, 9\) int64, must be int64 ids \(B, 16\)"),
        (lambda ids: ids[..., None], r"\(2, 16, 1\) int64, must be"),
    ],
)
def test_tokens_that_name_no_code_are_named(change: Callable[[Tensor], Tensor], rule: str) -> None:
    model = build.mage().eval()
    ids = torch.arange(32).reshape(2, 16)
    calls: list[Callable[[Tensor], object]] = [
        model.tokenizer.decode,
        model.token_features,
        model.block_features,
        classifier().pooled,
        lambda tokens: model.encode(tokens, open_plan(ids)),
        lambda tokens: model.logits(tokens, torch.zeros(2, 16, dtype=torch.bool)),
    ]
    for call in calls:
        call(ids)
        with pytest.raises(ValueError, match=rule):
            call(change(ids))


def test_hidden_tokens_may_be_anything() -> None:
    model = build.mage().eval()
    ids, masked = torch.arange(32).reshape(2, 16), torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 3:7] = True
    first = model.logits(ids, masked)
    assert torch.equal(model.logits(torch.where(masked, -7, ids), masked), first)
    assert torch.equal(model.logits(torch.where(masked, 10**6, ids), masked), first)
    with pytest.raises(ValueError, match=r"known: ids from -7 to"):
        mk.decode_tokens(model, torch.where(masked, ids, -7), masked, seed=0)


def test_continuous_tokens() -> None:
    patches = mk.Patches(image_size=(16, 16), channels=1, patch=4)
    model = build.mage(patches).eval()
    values = patches.encode(images())
    model.token_features(values)
    patches.decode(values * 50)
    for wrong, rule in (
        (values.long(), "int64, must be floating values"),
        (values / 0, "tokens: holds values that are"),
    ):
        with pytest.raises(ValueError, match=rule):
            model.token_features(wrong)
        with pytest.raises(ValueError, match=rule):
            patches.decode(wrong)


def test_loops_of_our_own_are_trusted() -> None:
    model = build.mage().eval()
    with trusted():
        model.features(images() * 2 - 1)
    with pytest.raises(ValueError, match="must lie in"):
        model.features(images() * 2 - 1)
