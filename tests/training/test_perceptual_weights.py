"""A training that compares pictures by a user's own file is bound to that file's contents, not to its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mage_kit as mk
from mage_kit.perceptual.lpips_vgg import VGGStages
from mage_kit.training.resolve import resolve
from tests.perceptual.test_lpips import linear_state
from tests.training.test_adversarial import ALONE, game


def write_vgg(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(VGGStages().state_dict(), path)


@pytest.fixture
def recipe(tmp_path: Path) -> mk.Recipe:
    write_vgg(tmp_path / "vgg.pth", 0)
    torch.save(linear_state(), tmp_path / "linear.pth")
    files = {"vgg": str(tmp_path / "vgg.pth"), "linear": str(tmp_path / "linear.pth")}
    recipe = game(**{**ALONE, "steps": 3, "batch": 4, "perceptual": {"kind": "lpips_vgg", **files}})
    return recipe.changed("tokenizer", channels=3).changed("data", part="held_out")


def test_another_file_of_the_same_name_is_another_tokenizer(recipe: mk.Recipe, tmp_path: Path) -> None:
    first, again = (resolve(recipe, torch.device("cpu")).jobs[0].fingerprint for _ in range(2))
    write_vgg(tmp_path / "vgg.pth", 1)
    other = resolve(recipe, torch.device("cpu")).jobs[0].fingerprint
    assert first == again and first != other


def test_a_run_does_not_go_on_by_another_network(recipe: mk.Recipe, tmp_path: Path) -> None:
    run = mk.train(recipe, tmp_path / "run", until=1)
    write_vgg(tmp_path / "vgg.pth", 1)
    with pytest.raises(mk.MageKitError, match=r"perceptual: weights of LPIPS-VGG have SHA-256 .*, must be .*began"):
        mk.train(recipe, run, resume=True)
    write_vgg(tmp_path / "vgg.pth", 0)
    mk.train(recipe, run, resume=True)
    assert (run / "tokenizer").is_dir()
