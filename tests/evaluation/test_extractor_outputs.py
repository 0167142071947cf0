"""What a network gives is looked at: probabilities, logits and swapped outputs are no features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.evaluation.generation_metrics import Extractor
from mage_kit.evaluation.image_quality import figure_name


def numbers(width: int) -> Tensor:
    return torch.randn(8, width, generator=torch.Generator().manual_seed(width))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "probabilities": (
        lambda: numbers(1008).softmax(dim=1),
        "gave probabilities .each row adds up to 1., must",
    ),
    "one class each": (lambda: F.one_hot(torch.arange(8), 10).float(), "gave probabilities"),
    "logits": (lambda: numbers(1008), "gave 1,008 values, some negative: logits of classes"),
    "logits first": (lambda: (numbers(512), numbers(2048).relu()), "gave logits first and features second, it seems"),
    "probabilities second": (
        lambda: (numbers(64).relu(), numbers(10).softmax(dim=1)),
        "the features, must give log",
    ),
    "a map second": (lambda: (numbers(64).relu(), torch.zeros(8, 4, 2, 2)), r"gave \(8, 4, 2, 2\) beside the features"),
    "logits of others": (lambda: (numbers(64).relu(), numbers(10)[:3]), r"gave \(3, 10\) beside the features"),
}
RIGHT: dict[str, Callable[[], Any]] = {
    "inception": lambda: (numbers(2048).relu(), numbers(1008)),
    "features alone": lambda: numbers(768),
    "rectified features alone": lambda: numbers(2048).relu(),
    "features with signs, and logits": lambda: (numbers(768), numbers(1000)),
}
IMAGES = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_features_is_refused(name: str) -> None:
    outputs, rule = WRONG[name]
    with pytest.raises(mk.MageKitError, match=rule):
        Extractor(lambda images: outputs(), "network", side=None)(IMAGES)


@pytest.mark.parametrize("name", RIGHT)
def test_features_are_taken(name: str) -> None:
    features, _ = Extractor(lambda images: RIGHT[name](), "network", side=None)(IMAGES)
    assert features.shape[0] == 8


def test_a_figure_of_fewer_images_than_features_says_so() -> None:
    full = {"count": 50_000, "forced": False}
    singular = "no more images than the 20,000 features, so covariances are singular"
    assert figure_name("gFID", 20_000, full, 0, 20_000) == f"gFID ({singular})"
    assert figure_name("gFID", 20_001, full, 0, 20_000) == "gFID"
