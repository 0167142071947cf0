"""Colours of reconstructions: right, wrong, grey; the verdict says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mage_kit.evaluation.colour_check import ColourCheck
from mage_kit.evaluation.judging_networks import Judgement, judging_network
from mage_kit.evaluation.tokenizer_audit import Audit, verdict


def pictures(seed: int = 0) -> Tensor:
    """Blocks of colour, uint8 (8, 3, 16, 16)."""
    random = torch.randint(0, 256, (8, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return random.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def checked(images: Tensor, rebuilt: Tensor) -> ColourCheck:
    check = ColourCheck()
    for one, other in zip(images.split(3), rebuilt.split(3), strict=True):
        check.add(one, other)
    return check


def test_correlations_are_those_of_numpy() -> None:
    images, rebuilt = pictures(), (pictures().float() * 0.7 + pictures(1).float() * 0.3).byte()
    check = checked(images, rebuilt)
    chroma = []
    for pixels in (images, rebuilt):
        red, green, blue = pixels.double().numpy().transpose(1, 0, 2, 3)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma.append(((blue - grey) / 1.772, (red - grey) / 1.402))
    by_hand = min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(*chroma, strict=True))
    assert check.correlation == pytest.approx(by_hand, abs=1e-4)


def test_right_wrong_and_grey() -> None:
    images = pictures()
    assert checked(images, images).correlation == pytest.approx(1) and checked(images, images).shift == 0
    assert checked(images, images.flip(1)).correlation < 0.5
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert checked(images, grey).correlation == pytest.approx(0, abs=0.05)
    assert checked(grey, images).correlation is None
    brighter = (images.int() + 20).clamp(max=255).byte()
    assert 0.05 < checked(images, brighter).shift < 0.08


def test_the_verdict_names_wrong_hues() -> None:
    sound = Audit(25.0, 0.9, 100, 0, None, np.full(100, 25.0), [], [], chroma=0.97, shift=0.01)
    assert "hues" not in verdict(sound)
    wrong = verdict(replace(sound, chroma=0.6))
    assert wrong.startswith("Do not train on these tokens yet") and "hues are wrong (their correlation is 0.60" in wrong
    assert "hues are wrong" in verdict(replace(sound, shift=0.05))
    assert "hues" not in verdict(replace(sound, chroma=None))


def test_the_judge_is_a_network_that_no_loss_used() -> None:
    names = [judging_network(kind).name for kind in (None, "squeezenet", "efficientnet_lite0")]
    assert names == ["EfficientNet-Lite0", "EfficientNet-Lite0", "SqueezeNet-1.1"]
    network = judging_network("efficientnet_lite0")
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    assert network(images).shape == (12, 512)
    judgement = Judgement(network)
    judgement.add(images, images)
    assert judgement.as_dict() is None, "of so few nothing is said"
    for _ in range(4):
        judgement.add(images, images)
    result = judgement.as_dict()
    assert result["network"] == "SqueezeNet-1.1" and len(result["sha256"]) == 64
    assert result["value"] == pytest.approx(0, abs=1e-2) and result["floor"] > result["value"]
