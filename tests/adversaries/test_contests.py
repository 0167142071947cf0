"""What two players play for: values at zero, steps by hand, weights that do not depend on scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mage_kit.adversaries import (
    LeCam,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from mage_kit.adversaries.differentiable_augment import DRAWS, augment

ZERO = torch.zeros(4, 1, 2, 2)


@pytest.mark.parametrize(
    ("contest", "adversary", "generator"),
    [("hinge", 1.0, 0.0), ("non_saturating", 2 * math.log(2), math.log(2)), ("vanilla", math.log(2), 0.0)],
)
def test_losses_at_zero_judgements(contest: str, adversary: float, generator: float) -> None:
    assert float(discriminator_loss(contest, ZERO, ZERO)) == pytest.approx(adversary)
    assert float(generator_loss(contest, ZERO)) == pytest.approx(generator)


@pytest.mark.parametrize("contest", ["hinge", "non_saturating", "vanilla"])
def test_each_side_gains_where_it_should(contest: str) -> None:
    """A discriminator that is right loses less than one that is wrong; swapped arguments would turn this round."""
    right = discriminator_loss(contest, ZERO + 0.5, ZERO - 0.5)
    wrong = discriminator_loss(contest, ZERO - 0.5, ZERO + 0.5)
    assert float(right) < float(wrong)
    assert float(generator_loss(contest, ZERO + 0.5)) < float(generator_loss(contest, ZERO - 0.5))


def test_lecam_by_hand() -> None:
    """Three steps: the cost is of the means before, which then move by a tenth of the way."""
    lecam = LeCam(decay=0.9)
    real_mean, rebuilt_mean = 0.0, 0.0
    for real, rebuilt in ((1.0, -0.5), (2.0, 0.25), (-1.0, 3.0)):
        cost = lecam(torch.full((2, 1), real), torch.full((2, 1), rebuilt))
        by_hand = max(0.0, real - rebuilt_mean) ** 2 + max(0.0, real_mean - rebuilt) ** 2
        assert float(cost) == pytest.approx(by_hand, rel=1e-6)
        real_mean, rebuilt_mean = 0.9 * real_mean + 0.1 * real, 0.9 * rebuilt_mean + 0.1 * rebuilt
        assert lecam.means.tolist() == pytest.approx([real_mean, rebuilt_mean])
    lecam.eval()
    before = lecam.means.clone()
    lecam(ZERO + 9, ZERO)
    assert torch.equal(lecam.means, before)


def test_lecams_means_move_once_a_step_however_many_passes() -> None:
    real, rebuilt = torch.randn(8, 1), torch.randn(8, 1)
    whole, parts = LeCam(decay=0.9), LeCam(decay=0.9)
    for _ in range(2):
        cost = whole(real, rebuilt)
        costs = [parts(*pair, passes=4) for pair in zip(real.split(2), rebuilt.split(2), strict=True)]
        torch.testing.assert_close(torch.stack(costs).mean(), cost)
        torch.testing.assert_close(parts.means, whole.means)


def test_the_gradient_penalty_of_a_line_is_its_slopes_square() -> None:
    slope = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.rand(5, 3, 4, 4).requires_grad_()
    penalty = gradient_penalty(images, (images * slope).sum(dim=(1, 2, 3))[:, None])
    torch.testing.assert_close(penalty, slope.square().sum())


def test_the_adaptive_weight_takes_the_adversarys_scale_out() -> None:
    """A linear decoder's gradients are known; whatever the adversary's loss is multiplied by, its pull stays."""
    generator = torch.Generator().manual_seed(0)
    decoder, codes = nn.Linear(6, 4, bias=False), torch.randn(8, 6, generator=generator)
    target, slope = torch.randn(8, 4, generator=generator), 100 * torch.randn(4, generator=generator)
    rebuilt = decoder(codes)
    rebuilding = (rebuilt - target).square().mean()
    weights = []
    for scale in (1.0, 10.0, 0.1):
        deceiving = -scale * (rebuilt * slope).sum(dim=1).mean()
        weights.append(float(adaptive_weight(rebuilding, deceiving, decoder.weight)) * scale)
        pull = scale * torch.outer(slope, codes.mean(dim=0)).norm()
        push = (2 * (rebuilt - target).T @ codes / target.numel()).norm()
        assert weights[-1] / scale == pytest.approx(float((push / (pull + 1e-4)).detach()), rel=1e-4)
    assert weights[1] == pytest.approx(weights[0], rel=1e-4)
    assert decoder.weight.grad is None, "no gradient is left behind"
    assert float(adaptive_weight(rebuilding * 1e9, (rebuilt * 0).sum(), decoder.weight)) == 1e4


@pytest.mark.parametrize("change", ["colour", "translation", "cutout"])
def test_changes_follow_the_images_draws_alone(change: str) -> None:
    images, draws = torch.rand(6, 3, 16, 16), torch.rand(6, DRAWS)
    whole = augment(images, draws, (change,))
    assert whole.shape == images.shape and not torch.equal(whole, images)
    torch.testing.assert_close(augment(images[2:4], draws[2:4], (change,)), whole[2:4])
    leaf = images.clone().requires_grad_()
    augment(leaf, draws, (change,)).sum().backward()
    assert float(leaf.grad.abs().sum()) > 0
    assert torch.equal(augment(images, draws, ()), images)


def test_a_shift_moves_pixels_and_a_hole_is_a_quarter() -> None:
    images = torch.rand(1, 1, 16, 16)
    draws = torch.zeros(1, DRAWS)
    draws[0, 3:5] = 0.999  # as far down and right as it goes: two pixels
    moved = augment(images, draws, ("translation",))
    assert torch.equal(moved[0, 0, :14, :14], images[0, 0, 2:, 2:]) and bool((moved[0, 0, 14:] == 0.5).all())
    draws[0, 5:7] = 0.5
    cut = augment(torch.ones(1, 1, 16, 16), draws, ("cutout",))
    assert int((cut == 0.5).sum()) == 64
