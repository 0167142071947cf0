"""Runs and networks that tests of measures share, each module with its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mage_kit.training.train import train
from tests.training.test_training import small

CHANGES = (
    "training.epochs=1",
    "training.precision=float32",
    "tokenizer_training.precision=float32",
    "kernels.attention=matmul",
    "data.part=held_out",
    "training.batch=50",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(*CHANGES), tmp_path_factory.mktemp("runs") / "run")


class Means(torch.nn.Module):
    """Features that follow the picture: its means over a 3 x 3 grid."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1) / 255


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("networks") / "means.pt"
    torch.jit.trace(Means(), torch.rand(2, 3, 32, 32)).save(str(file))
    return file
