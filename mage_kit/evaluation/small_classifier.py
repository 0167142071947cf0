"""A small classifier of real images: its features carry the Fréchet distance where no Inception file is at hand.

It looks at images brought to 16 x 16, is trained on 80% of the real ones with small shifts, turns and scalings, and
says how accurate it is on the rest. Legend: I images, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.base.draws import derive, generator
from mage_kit.base.progress import Reporter

SIDE = 16
_WIDTH = 64


@dataclass(frozen=True)
class Predictions:
    """What the classifier says of images.

    Args:
        features: float32 (I, 64).
        sureness: Largest class probability of each image.
        classes: The class that has it.
    """

    features: np.ndarray
    sureness: np.ndarray
    classes: np.ndarray


class Classifier(nn.Module):
    """Three convolutions with batch norm and one hidden layer, whose outputs are the features.

    Args:
        channels: Of the images.
        classes: How many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_layer(channels, 32), nn.MaxPool2d(2), *_layer(32, 64), nn.MaxPool2d(2), *_layer(64, 64),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, _WIDTH), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(_WIDTH, classes)

    def forward(self, images_ICHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (I, classes) and features (I, 64)."""
        features = self.stem(F.adaptive_avg_pool2d(images_ICHW, SIDE))
        return self.head(features), features

    @torch.no_grad()
    def judge(self, images_ICHW: Tensor, batch: int = 512) -> Predictions:
        """Classify float images in [0, 1]."""
        self.eval()
        logits, features = (
            torch.cat(parts) for parts in zip(*(self(part) for part in images_ICHW.split(batch)), strict=True)
        )
        sureness, classes = logits.softmax(dim=1).max(dim=1)
        return Predictions(features.numpy(), sureness.numpy(), classes.numpy())


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def train_classifier(
    images_ICHW: Tensor,
    labels_I: Tensor,
    classes: int,
    *,
    seed: int,
    steps: int = 500,
    reporter: Reporter | None = None,
) -> tuple[Classifier, float]:
    """Train on 80% of the images; return the classifier and its accuracy on the other 20%.

    Args:
        images_ICHW: float32 real images in [0, 1].
        labels_I: int64 labels.
        classes: Number of classes.
        seed: Of split, weights and augmentation.
        steps: Optimiser steps of 128 images.
        reporter: Where progress goes.
    """
    order = torch.randperm(len(images_ICHW), generator=generator(seed, "classifier-split"))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "classifier"))
        model = Classifier(images_ICHW.shape[1], classes)
    small = F.adaptive_avg_pool2d(images_ICHW, SIDE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    random = generator(seed, "classifier-batches")
    model.train()
    with (reporter or Reporter()).task("training the classifier of real images", steps) as task:
        for step in range(steps):
            places = train[torch.randint(len(train), (128,), generator=random)]
            loss = F.cross_entropy(model(_jitter(small[places], random))[0], labels_I[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 50 == 49:
                task.update(step + 1, f"loss {loss.item():.3f}")
    judgement = model.judge(images_ICHW[test])
    return model, float((judgement.classes == labels_I[test].numpy()).mean())


def _jitter(images: Tensor, random: torch.Generator) -> Tensor:
    """Turn by up to 0.15 rad, scale by up to 10%, shift by up to 1/16 of the side."""
    draws = torch.rand(4, len(images), generator=random) - 0.5
    angle, scale = draws[0] * 0.3, 1 + draws[1] * 0.2
    rows = [
        torch.stack([angle.cos() * scale, -angle.sin() * scale, draws[2] * 0.25], dim=1),
        torch.stack([angle.sin() * scale, angle.cos() * scale, draws[3] * 0.25], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
