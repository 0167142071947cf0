"""Checkpoints: a folder a step, written whole or not at all, without pickles.

weights.safetensors holds the module, optimizer.safetensors AdamW's moments by parameter name, sums.safetensors the
metrics gathered since the last line of the log; recipe.json the recipe's text; state.json the step.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mage_kit.errors import MageKitError
from mage_kit.files import atomic_folder, read_json, read_tensors, write_json, write_tensors, write_text
from mage_kit.storage import load_state, state_of


@dataclass
class Checkpointed:
    """What a stage keeps over a restart.

    Args:
        module: Its weights and buffers.
        names: Names of the optimiser's parameters, in order of `module.named_parameters()`.
        optimizer: AdamW.
        sums: Named running sums of metrics, changed in place.
    """

    module: nn.Module
    names: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    sums: dict[str, Tensor]


def save_checkpoint(folder: Path, step: int, parts: Checkpointed, recipe_json: str, keep: int) -> Path:
    """Write the checkpoint of a step and drop all but the newest `keep`.

    Args:
        folder: Of the stage's checkpoints.
        step: Steps done.
        parts: What to keep.
        recipe_json: Text of the recipe.
        keep: How many checkpoints stay.
    """
    target = folder / f"step-{step:08d}"
    with atomic_folder(target) as temporary:
        write_tensors(temporary / "weights.safetensors", state_of(parts.module))
        write_tensors(temporary / "optimizer.safetensors", _moments(parts))
        write_tensors(temporary / "sums.safetensors", {name: tensor.cpu() for name, tensor in parts.sums.items()})
        write_text(temporary / "recipe.json", recipe_json)
        write_json(temporary / "state.json", {"step": step})
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a stage's checkpoints, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def drop_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    if folder.is_dir():
        for path in folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(path: Path, parts: Checkpointed) -> int:
    """Fill module, optimiser and sums from a checkpoint; return the steps done. Nothing is changed unless all is read.

    Raises:
        MageKitError: If it is damaged or belongs to another model.
    """
    weights, moments, sums = (read_tensors(path / f"{name}.safetensors") for name in ("weights", "optimizer", "sums"))
    step: int = read_json(path / "state.json")["step"]
    fields = ("step", "exp_avg", "exp_avg_sq")
    missing = [f"{name}/{field}" for name in parts.names for field in fields if f"{name}/{field}" not in moments]
    if missing:
        raise MageKitError(f"{path}: optimizer.safetensors has no {', '.join(missing[:5])}")
    load_state(parts.module, weights, str(path))
    for name, parameter in parts.names.items():
        state = parts.optimizer.state[parameter]
        state.clear()
        for field in fields:
            state[field] = moments[f"{name}/{field}"].to(parameter.device)
    for name, tensor in sums.items():
        if name in parts.sums:
            parts.sums[name].copy_(tensor)
        else:
            parts.sums[name] = tensor
    return step


def _moments(parts: Checkpointed) -> dict[str, Tensor]:
    moments = {}
    for name, parameter in parts.names.items():
        for field, value in parts.optimizer.state[parameter].items():
            moments[f"{name}/{field}"] = value.detach().cpu().contiguous()
    return moments
