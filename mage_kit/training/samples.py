"""A picture of what a model in training makes by now."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mage_kit.base.processes import alone, on_first
from mage_kit.generation import generate
from mage_kit.images.pictures import labelled_rows, save_picture
from mage_kit.models import Mage
from mage_kit.store.folders import load_state, state_of
from mage_kit.training.checkpoints import mean_state
from mage_kit.training.players import Player

_SHOWN = 8
_SMALL = 64  # smaller images are enlarged, for people to look at


def draw_from(player: Player, pristine: Mage | None, path: Path, device: torch.device) -> None:
    """Draw samples of a player's raw and mean weights, by a copy that the first process has to itself.

    Args:
        player: Whose module is a masked model; all processes take part, its shards being put together.
        pristine: A whole model of the same form, where the engine has sharded the player's.
        path: PNG to write.
        device: Where to generate.
    """
    states = {"raw weights": state_of(player.module)}
    if player.mean is not None:
        states["EMA weights"] = mean_state(player)
    on_first(partial(_draw, player, pristine, states, path, device))


def _draw(
    player: Player, pristine: Mage | None, states: dict[str, dict[str, Tensor]], path: Path, device: torch.device
) -> None:
    rows = []
    with alone(), torch.random.fork_rng(devices=[]):
        for name, state in states.items():
            model = copy.deepcopy(pristine or player.module)
            assert isinstance(model, Mage)
            load_state(model, state, str(path))
            rows.append((name, model.to(device).eval()))
        draw_samples(rows, path)


def draw_samples(models: list[tuple[str, Mage]], path: Path) -> None:
    """Generate the same seeds with each model and write them as labelled rows.

    Args:
        models: Label and model.
        path: PNG to write.
    """
    rows = [(label, generate(model, _SHOWN, seed=0).images_BCHW.cpu()) for label, model in models]
    scale = 2 if max(models[0][1].tokenizer.image_size) <= _SMALL else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(labelled_rows(rows, scale=scale), path)
