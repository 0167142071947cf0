"""Checkpoints: a folder a step, written whole or not at all, without pickles, the same for any number of processes.

weights.safetensors holds the module, ema.safetensors the means of its weights, optimizer.safetensors AdamW's moments
by parameter name, sums.safetensors the metrics gathered since the last line of the log; recipe.json the recipe's text;
state.json the step, the counters, and the SHA-256 of every file.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mage_kit import processes
from mage_kit.errors import MageKitError
from mage_kit.files import atomic_folder, read_json, read_tensors, write_json, write_tensors, write_text
from mage_kit.progress import Reporter
from mage_kit.storage import load_state, state_of
from mage_kit.training.ema import WeightMean

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Checkpointed:
    """What a stage keeps over a restart.

    Args:
        module: Its weights and buffers.
        names: The optimiser's parameters by name, in order of `module.named_parameters()`.
        optimizer: AdamW, or another that keeps tensors.
        sums: Named running sums of metrics, changed in place; each process has a part of them.
        ema: The weights' running means, if there are any.
        counters: Named whole numbers, changed in place.
        moments: What the optimiser keeps of each parameter, by name; AdamW's.
    """

    module: nn.Module
    names: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    sums: dict[str, Tensor]
    ema: WeightMean | None = None
    counters: dict[str, int] = field(default_factory=dict)
    moments: tuple[str, ...] = ("step", "exp_avg", "exp_avg_sq")


def mean_state(kept: Checkpointed) -> dict[str, Tensor]:
    """Return a stage's tensors with the mean weights, as `state_of` does; it must have such means."""
    assert kept.ema is not None
    state = state_of(kept.module)
    for name, mean in kept.ema.means.items():  # one at a time: a sharded model does not fit as a whole
        full = processes.whole(mean)
        if processes.is_first():
            state[name] = full.cpu().contiguous()
    return state


def save_checkpoint(folder: Path, step: int, parts: Checkpointed, recipe_json: str, keep: int) -> Path:
    """Write the checkpoint of a step and drop all but the newest `keep`; all processes call it, the first writes.

    Args:
        folder: Of the stage's checkpoints.
        step: Steps done.
        parts: What to keep.
        recipe_json: Text of the recipe.
        keep: How many checkpoints stay.

    Raises:
        MageKitError: If it cannot be written, as on a full disk; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:08d}"
    tensors = _tensors(parts)

    def write() -> None:
        try:
            with atomic_folder(target) as temporary:
                for name, held in tensors.items():
                    write_tensors(temporary / f"{name}.safetensors", held)
                write_text(temporary / "recipe.json", recipe_json)
                files = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
                write_json(temporary / "state.json", {"step": step, "counters": parts.counters, "sha256": files})
        except Exception as error:
            raise _unwritten(target, error) from None
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    processes.on_first(write)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return a stage's checkpoints, oldest first; unfinished ones are not among them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


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
    """Compare every file with what was written; checkpoints of before there were digests pass.

    Raises:
        MageKitError: If one is missing or differs.
    """
    state = read_json(path / "state.json")
    if state.get("step") != int(path.name.rpartition("-")[2]):
        raise MageKitError(f"{path / 'state.json'}: its step is {state.get('step')}, the folder's another")
    for name, wanted in state.get("sha256", {}).items():
        if not (path / name).is_file():
            raise MageKitError(f"{path / name}: missing")
        if _digest(path / name) != wanted:
            raise MageKitError(f"{path / name}: its content is not what was written (SHA-256 differs)")


def load_checkpoint(path: Path, parts: Checkpointed) -> int:
    """Fill module, optimiser, means and sums from a checkpoint; return the steps done.

    Nothing is changed unless all is read.

    Raises:
        MageKitError: If it is damaged or belongs to another model.
    """
    wanted = ("weights", "optimizer", "sums", *(("ema",) if parts.ema else ()))
    read = {name: read_tensors(path / f"{name}.safetensors") for name in wanted}
    state = read_json(path / "state.json")
    moments = read["optimizer"]
    wanted_names = parts.names if moments else {}  # none at all: saved before the first step that counted
    missing = [f"{name}/{part}" for name in wanted_names for part in parts.moments if f"{name}/{part}" not in moments]
    if parts.ema:
        missing += [f"ema/{name}" for name in parts.ema.means if name not in read["ema"]]
    if missing:
        raise MageKitError(f"{path}: holds no {', '.join(missing[:5])}")
    load_state(parts.module, read["weights"], str(path))
    for name, parameter in parts.names.items():
        held = parts.optimizer.state[parameter]
        held.clear()
        if not moments:
            del parts.optimizer.state[parameter]
            continue
        for part in parts.moments:
            value = moments[f"{name}/{part}"]
            is_count = part == "step"
            held[part] = value.to(parameter.device) if is_count else processes.sharded_like(value, parameter)
    if parts.ema:
        for name, mean in parts.ema.means.items():
            mean.copy_(processes.sharded_like(read["ema"][name], mean))
    device = next(iter(parts.names.values())).device
    _load_sums(parts.sums, {name: tensor.to(device) for name, tensor in read["sums"].items()})
    parts.counters.update({name: int(value) for name, value in state.get("counters", {}).items()})
    step: int = state["step"]
    return step


def resume(kept: Checkpointed, checkpoints: Path, reporter: Reporter) -> int:
    """Load the newest checkpoint that verifies; return the steps done, 0 without any.

    A damaged one is told and passed over for the one before.

    Raises:
        MageKitError: If there are checkpoints, but none verifies: to start over is the user's decision.
    """
    for path in processes.on_first(lambda: _newest_first(checkpoints)):
        step, problem = 0, processes.on_first(partial(_damage, path))  # one at a time: the first sound one will do
        if not problem:
            try:
                step = load_checkpoint(path, kept)
            except (MageKitError, OSError, ValueError, KeyError, TypeError) as error:
                problem = str(error) or type(error).__name__
        if told := next(filter(None, processes.collect(problem)), ""):  # one process cannot read it: none uses it
            reporter.say(f"checkpoint {path} is damaged and passed over: {told}")
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


def _tensors(parts: Checkpointed) -> dict[str, dict[str, Tensor]]:
    """Everything in full, on the CPU of the first process; the others take part and keep nothing."""
    moments = {
        f"{name}/{part}": value
        for name, parameter in parts.names.items()
        for part, value in parts.optimizer.state[parameter].items()
    }
    sums = {name: processes.add_up(tensor.clone()) for name, tensor in sorted(parts.sums.items())}
    held = {"weights": state_of(parts.module), "optimizer": _whole(moments), "sums": _whole(sums)}
    return held | ({"ema": _whole(parts.ema.means)} if parts.ema else {})


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    full = ((name, processes.whole(tensor)) for name, tensor in tensors.items())
    return {name: tensor.cpu().contiguous() for name, tensor in full if processes.is_first()}


def _load_sums(held: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Give the stored sums, which are those of all processes, to the first one."""
    for name, tensor in stored.items():
        mine = tensor if processes.is_first() else torch.zeros_like(tensor)
        if name in held:
            held[name].copy_(mine)
        else:
            held[name] = mine


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwritten(target: Path, error: Exception) -> MageKitError:
    """Say what could not be written and what is safe."""
    full = isinstance(error, OSError) and error.errno in _FULL
    full = full or "No space left" in str(error) or "File too large" in str(error)
    why = "the disk is full (or a quota is reached)" if full else str(error)
    good = list_checkpoints(target.parent)
    safe = f"the last good checkpoint is intact: {good[-1]}" if good else "there is no earlier checkpoint"
    advice = "; make room, then go on with --resume" if full else ""
    return MageKitError(f"checkpoint {target}: could not be written, {why}; {safe}{advice}")
