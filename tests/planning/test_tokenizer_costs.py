"""What a tokenizer's training costs, against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.planning.estimate import Machine
from mage_kit.planning.tokenizer_costs import tokenizer_costs
from mage_kit.recipes.tokenizer_workload import tokenizer_workload
from tests.training.test_adversarial import ALONE, game

MACHINE = Machine(1, 100.0, 0.5, 25.0, 80.0)


def test_operations_are_three_passes_and_the_adversarys_eight() -> None:
    """And three of R1, which this game plays; one more where gradients are compared."""
    plain = tokenizer_costs(tokenizer_workload(game(**ALONE)), MACHINE)
    both = tokenizer_costs(tokenizer_workload(game()), MACHINE)
    assert both.operations["tokenizer"] == plain.operations["tokenizer"] and "adversary" not in plain.operations
    # PatchGAN of 8 channels, one halving: 4x4 convolutions of 1 -> 8 at half size, 8 -> 16 one smaller, 16 -> 1.
    half = game().build_tokenizer().image_size[0] // 2
    forward = 2 * 16 * (8 * half**2 + 8 * 16 * (half - 1) ** 2 + 16 * (half - 2) ** 2)
    assert both.operations["adversary"] == pytest.approx(11 * forward)
    other = tokenizer_costs(tokenizer_workload(game(gradient_penalty=0.0, adaptive=True)), MACHINE)
    assert other.operations["adversary"] == pytest.approx(9 * forward)
    assert both.parameters["adversary"] == 1 * 8 * 16 + 8 + 8 * 16 * 16 + 32 + 16 * 16 + 1
    assert both.days == pytest.approx(12 * 16 * sum(both.operations.values()) / 50e12 / 86_400)
    assert both.kept > plain.kept > 0 and both.traffic == 0


def test_a_decoder_alone_costs_less_and_processes_must_divide() -> None:
    whole = tokenizer_costs(tokenizer_workload(game(**ALONE)), MACHINE)
    alone = tokenizer_costs(tokenizer_workload(game(**{**ALONE, "train": "decoder"})), MACHINE)
    assert alone.operations["tokenizer"] < whole.operations["tokenizer"]
    decoder = sum(value.numel() for value in game().build_tokenizer().decoder.parameters())
    every = alone.parameters["tokenizer"]
    assert alone.standing == 4 * (decoder * (2 + 2) + (every - decoder) + decoder), "weights, gradient, moments, mean"
    with pytest.raises(mk.RecipeError, match=r"batch: 16, must be a multiple of the GPUs \(3\)"):
        tokenizer_costs(tokenizer_workload(game()), Machine(3, 100.0, 0.5, 25.0, 80.0))


def test_a_perceptual_network_sees_small_pictures_enlarged() -> None:
    colour = {"channels": 3, "image_size": [32, 32]}
    form = {**game(**ALONE).tokenizer.model_dump(mode="json"), **colour}
    recipes = [
        game(**{**ALONE, "perceptual": {"kind": "squeezenet"}}).extended(tokenizer={**form, "image_size": [side, side]})
        for side in (32, 64)
    ]
    small, large = (tokenizer_costs(tokenizer_workload(recipe), MACHINE).operations for recipe in recipes)
    assert small["SqueezeNet-1.1"] == large["SqueezeNet-1.1"] > 0
    assert small["tokenizer"] < large["tokenizer"]


def test_the_forecast_of_what_is_kept_is_what_is_kept() -> None:
    """On the meta device and with numbers: the same bytes."""
    work = tokenizer_workload(game(**ALONE))
    torch.manual_seed(0)
    tokenizer = game(**ALONE).build_tokenizer()
    tokenizer.start_training()
    sizes: dict[int, int] = {}
    tensors = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            tensors.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.rand(1, tokenizer.channels, *tokenizer.image_size)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        tokenizer.rehearse(images)
    assert tokenizer_costs(work, MACHINE).kept == pytest.approx(sum(sizes.values()), rel=0.05)


def test_the_command_prints_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(game().to_json())
    done = CliRunner().invoke(app, ["plan", str(path), "--gpus", "2", "--json"])
    costs = json.loads(done.output)
    assert costs["steps"] == 12 and costs["operations"]["adversary"] > 0 and costs["traffic"] > 0
    table = CliRunner().invoke(app, ["plan", str(path), "--gpus", "1"]).output
    assert "adversary" in table and "GiB in float32" in table
