"""MAGE-C ViT-L as shipped, at full size: one step, its gradients and its memory; and the command that starts it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import mage_kit as mk
from mage_kit.optimizers import set_lr
from mage_kit.training.metrics import peak_memory_gib, read_metrics
from mage_kit.training.train import train
from tests.datasets.test_data import photo
from tests.loops import loop_of
from tests.recipes.test_recipe import RECIPES

CPU = torch.device("cpu")
pytestmark = pytest.mark.large


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        photo(index, (320, 280)).save(folder / f"{index}.jpg", quality=92)
    return folder


@pytest.mark.slow
def test_a_step_of_mage_c_vitl_reaches_every_parameter(photos: Path) -> None:
    """Tokenizer at random weights, two images, two views, bfloat16."""
    changes = [f"data.path={photos}", "training.batch=2", "training.micro_batch=2"]
    recipe = mk.Recipe.load(RECIPES / "mage_c_vitl.json", changes)
    loop = loop_of(recipe, precision="bfloat16")
    (player,) = loop.players
    (batch,) = loop.batches(0, 1)
    assert batch.images_TCHW.shape == (4, 3, 256, 256)
    loss = float(loop.gradients(batch, 0))
    assert math.isfinite(loss)
    missing = [name for name, value in player.names.items() if value.grad is None]
    dead = [name for name, value in player.names.items() if value.grad is not None and not bool(value.grad.any())]
    wrong = [name for name, value in player.names.items() if value.grad is not None and not value.grad.isfinite().all()]
    assert not missing and not dead and not wrong, (missing[:5], dead[:5], wrong[:5])
    set_lr(player.optimizer, player.rate.peak)
    player.optimizer.step()
    count = sum(value.numel() for value in player.names.values())
    print(f"MAGE-C ViT-L, {count / 1e6:.0f} M parameters: loss {loss:.3f}, peak memory {peak_memory_gib(CPU):.1f} GiB")


@pytest.mark.slow
def test_the_shipped_recipe_starts_on_a_folder_of_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `mage-kit train recipes/mage_c_vitl.json --set data.path=DIR`, with batches that four images fill."""
    changes = [f"data.path={photos}", "training.batch=2", "training.micro_batch=2", "tokenizer_training.batch=2"]
    changes += [
        "training.workers=1",
        "training.samples_every=null",
        "training.precision=bfloat16",
        "training.log_every=1",
    ]
    recipe = mk.Recipe.load(RECIPES / "mage_c_vitl.json", changes)
    out = train(recipe, tmp_path / "run", until=1)
    told = capsys.readouterr().err
    assert "tokenizer.weights: null, so the tokenizer is trained first, 500000 steps on these 4 images" in told
    assert "2 a process x 1 processes x 1 accumulated = 2 images a step" in told
    (tokenizer,), (model,) = (read_metrics(out, stage) for stage in ("tokenizer", "model"))
    assert math.isfinite(tokenizer["loss"]) and math.isfinite(model["loss"]) and model["info_nce"] >= 0
    print(f"one step of each stage at full size: peak memory {model['peak_memory_gib']} GiB")
