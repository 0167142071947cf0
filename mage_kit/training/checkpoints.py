"""Checkpoints: a folder a step, written whole or not at all, without pickles, the same for any number of processes.

weights.safetensors holds the modules, each tensor as PLAYER/NAME, ema.safetensors the means of their weights,
optimizer.safetensors what the optimizers keep, as PLAYER/NAME/KIND, sums.safetensors the metrics gathered since the
last line of the log; recipe.json the recipe's text; state.json the step, the counters and the plain values that
optimizers keep; manifest.json the digest of every file.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError, OtherTrainingError
from mage_kit.base.files import atomic_folder, read_json, read_tensors, write_json, write_tensors, write_text
from mage_kit.base.manifest import check_folder
from mage_kit.base.progress import Reporter
from mage_kit.store.folders import load_state, state_of
from mage_kit.training.optimizer_state import fill_optimizer, optimizer_misfits, plain_values, state_tensors
from mage_kit.training.players import Player

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class State:
    """What a training keeps over a restart.

    Args:
        players: Their modules, optimizers, and running means.
        sums: Named running sums of metrics, changed in place; each process has a part of them.
        counters: Named whole numbers, changed in place.
    """

    players: Sequence[Player]
    sums: dict[str, Tensor]
    counters: dict[str, int] = field(default_factory=dict)


def mean_state(player: Player) -> dict[str, Tensor]:
    """Return a module's tensors with the mean weights, as `state_of` does; the player must have such means."""
    assert player.mean is not None
    state = state_of(player.module)
    for name, mean in player.mean.means.items():  # one at a time: a sharded model does not fit as a whole
        full = processes.whole(mean)
        if processes.is_first():
            state[name] = full.cpu().contiguous()
    return state


def save_checkpoint(
    folder: Path, step: int, state: State, recipe_json: str, keep: int, keep_every: int | None = None
) -> Path:
    """Write the checkpoint of a step and drop older ones; all processes call it, the first writes.

    Args:
        folder: Of the training's checkpoints.
        step: Steps done.
        state: What to keep.
        recipe_json: Text of the recipe.
        keep: How many of the newest stay.
        keep_every: Those of every so many steps stay too; None for no others.

    Raises:
        MageKitError: If it cannot be written, as on a full disk; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:08d}"
    tensors = _tensors(state)
    settings = {player.name: plain_values(player) for player in state.players}

    def write() -> None:
        try:
            with atomic_folder(target, listed=True) as temporary:
                for name, content in tensors.items():
                    write_tensors(temporary / f"{name}.safetensors", content)
                write_text(temporary / "recipe.json", recipe_json)
                about = {"step": step, "counters": state.counters, "optimizers": settings}
                write_json(temporary / "state.json", about)
        except Exception as error:
            raise _unwritten(target, error) from None
        # Newer ones are damaged, or the run would have gone on from them: they count for nothing.
        good = [path for path in list_checkpoints(folder) if path.name <= target.name]
        for old in good[:-keep]:
            if keep_every is None or step_of(old) % keep_every:
                shutil.rmtree(old, ignore_errors=True)

    processes.on_first(write)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a training's checkpoints, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def step_of(checkpoint: Path) -> int:
    """Return the steps done that a checkpoint's name states."""
    return int(checkpoint.name.rpartition("-")[2])


def drop_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    if not folder.is_dir():
        return
    for path in folder.glob(".step-*.old"):  # set aside while another took its name, which it perhaps never did
        if not (whole := path.with_name(path.name[1 : -len(".old")])).exists():
            path.rename(whole)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def verify_checkpoint(path: Path) -> None:
    """Compare every file with what was written.

    Raises:
        MageKitError: If one is missing or differs.
    """
    state = read_json(path / "state.json")
    if state.get("step") != step_of(path):
        raise MageKitError(f"{path / 'state.json'}: its step is {state.get('step')}, the folder's another")
    for name in ("weights.safetensors", "optimizer.safetensors", "sums.safetensors", "state.json"):
        if not (path / name).is_file():
            raise MageKitError(f"{path / name}: missing")
    check_folder(path)


def load_checkpoint(path: Path, state: State) -> int:
    """Fill modules, optimizers, means and sums from a checkpoint; return the steps done.

    Nothing is changed unless all is read.

    Raises:
        MageKitError: If it is damaged or belongs to another training.
    """
    means = any(player.mean for player in state.players)
    names = ("weights", "optimizer", "sums", *(("ema",) if means else ()))
    # `verify_checkpoint` has compared the files: once is enough, optimizers' state is large.
    tensors = {name: read_tensors(path / f"{name}.safetensors", lambda: True) for name in names}
    content = read_json(path / "state.json")
    values = content.get("optimizers", {})
    lines = [line for player in state.players for line in _misfits(player, tensors, values)]
    if lines:
        raise OtherTrainingError(f"{path}: is of another training: {', '.join(lines[:5])}")
    for player in state.players:
        _fill(player, tensors, values, str(path))
    device = next(iter(state.players[0].names.values())).device
    _load_sums(state.sums, {name: tensor.to(device) for name, tensor in tensors["sums"].items()})
    state.counters.update({name: int(value) for name, value in content.get("counters", {}).items()})
    step: int = content["step"]
    return step


def _misfits(player: Player, tensors: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> list[str]:
    """Say what a checkpoint has of another training than a player's, or lacks of it."""
    lines = optimizer_misfits(player, _of(player, tensors["optimizer"]), values.get(player.name, {}))
    if player.mean:
        means = _of(player, tensors["ema"])
        lines += [f"no mean of {player.name}/{name}" for name in player.mean.means if name not in means]
    return lines


def _fill(player: Player, tensors: dict[str, dict[str, Tensor]], values: dict[str, Any], source: str) -> None:
    load_state(player.module, _of(player, tensors["weights"]), source)
    fill_optimizer(player, _of(player, tensors["optimizer"]), values.get(player.name, {}))
    if player.mean:
        means = _of(player, tensors["ema"])
        for name, mean in player.mean.means.items():
            mean.copy_(processes.sharded_like(means[name], mean))


def _of(player: Player, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A player's tensors of a file, under their own names."""
    before = f"{player.name}/"
    return {name[len(before) :]: tensor for name, tensor in tensors.items() if name.startswith(before)}


def resume(state: State, checkpoints: Path, reporter: Reporter) -> int:
    """Load the newest checkpoint that verifies; return the steps done, 0 without any.

    A damaged one is told and passed over for the one before.

    Raises:
        MageKitError: If there are checkpoints, but none verifies: to start over is the user's decision.
    """
    for path in processes.on_first(lambda: _newest_first(checkpoints)):
        step, problem = 0, processes.on_first(partial(_damage, path))  # one at a time: the first sound one will do
        if not problem:
            try:
                step = load_checkpoint(path, state)
            except OtherTrainingError as error:
                rule = "put the task back as it was, or start a new run"
                raise processes.shared(OtherTrainingError(f"{error}; {rule}")) from None
            except (MageKitError, OSError, ValueError, KeyError, TypeError) as error:
                problem = str(error) or type(error).__name__
        if damage := next(filter(None, processes.collect(problem)), ""):  # one process cannot read it: none uses it
            reporter.say(f"checkpoint {path} is damaged and passed over: {damage}")
            continue
        reporter.say(f"resuming from {path}")
        return step
    if processes.on_first(lambda: bool(list_checkpoints(checkpoints))):
        rule = "can be read; remove that folder to start the stage over"
        raise processes.shared(MageKitError(f"checkpoints: none in '{checkpoints}' {rule}"))
    return 0


def _newest_first(checkpoints: Path) -> list[Path]:
    drop_unfinished(checkpoints)
    return list_checkpoints(checkpoints)[::-1]


def _damage(path: Path) -> str:
    """Return what is wrong with a checkpoint's files, or nothing."""
    try:
        verify_checkpoint(path)
    except (MageKitError, OSError, AttributeError) as error:
        return str(error) or type(error).__name__
    return ""


def _tensors(state: State) -> dict[str, dict[str, Tensor]]:
    """Everything in full, on the CPU of the first process; the others take part and keep nothing."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    for player in state.players:
        weights |= {f"{player.name}/{name}": value for name, value in state_of(player.module).items()}
        moments |= {f"{player.name}/{place}": value for place, value in state_tensors(player).items()}
        if player.mean:
            means |= {f"{player.name}/{name}": value for name, value in player.mean.means.items()}
    sums = {name: processes.add_up(tensor.clone()) for name, tensor in sorted(state.sums.items())}
    files = {"weights": weights, "optimizer": _whole(moments), "sums": _whole(sums)}
    return files | ({"ema": _whole(means)} if means else {})


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    full = ((name, processes.whole(tensor)) for name, tensor in tensors.items())
    return {name: tensor.cpu().contiguous() for name, tensor in full if processes.is_first()}


def _load_sums(sums: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Give the stored sums, which are those of all processes, to the first one; sums that began later begin again."""
    for name, tensor in sums.items():
        if name not in theirs:
            tensor.zero_()
    for name, tensor in theirs.items():
        mine = tensor if processes.is_first() else torch.zeros_like(tensor)
        if name in sums:
            sums[name].copy_(mine)
        else:
            sums[name] = mine


def _unwritten(target: Path, error: Exception) -> MageKitError:
    """Say what could not be written and what is safe."""
    full = isinstance(error, OSError) and error.errno in _FULL
    full = full or "No space left" in str(error) or "File too large" in str(error)
    why = "the disk is full (or a quota is reached)" if full else str(error)
    good = list_checkpoints(target.parent)
    safe = f"the last good checkpoint is intact: {good[-1]}" if good else "there is no earlier checkpoint"
    advice = "; make room, then go on with --resume" if full else ""
    return MageKitError(f"checkpoint {target}: could not be written, {why}; {safe}{advice}")
