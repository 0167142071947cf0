"""Weights of perceptual networks: the user's own files, or those of an installed package; read, never run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_tensors
from mage_kit.base.package_files import package_file
from mage_kit.legacy.pickles import read_pickle

EXTRA = "perceptual"
_COUNTER = "num_batches_tracked"  # of a batch norm: no number of the network is computed with it, old files lack it


def file_digest(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        MageKitError: If there is no such file.
    """
    if not path.is_file():
        raise MageKitError(f"perceptual: '{path}', there is no such file; must be weights of yours")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return tensors by name, of a PyTorch file (a state, or one under "state_dict") or a safetensors file.

    Raises:
        MageKitError: If there is no such file, it is damaged, or holds something else.
    """
    state: Any = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise MageKitError(f"perceptual: '{path}', must hold tensors by name, as a saved state_dict does")
    return dict(state)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, network: str, unused: str | None = None) -> None:
    """Put weights into a network; the file holds these and no others, since a deeper network has the same names first.

    Args:
        module: The network.
        state: Tensors by name.
        path: Where they came from, for errors.
        network: What the file should be of.
        unused: How names of tensors begin that the whole network has and `module` does not; None where it has all.

    Raises:
        MageKitError: If one is absent, or of another shape, or not finite, or there are others.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.endswith(_COUNTER)}
    others = [name for name in state if name not in own and not name.endswith(_COUNTER)]
    if foreign := [name for name in others if unused is None or not name.startswith(unused)]:
        rule = f"must be weights of {network}, which has no such tensor"
        first = next((name for name in own if name not in state), None)
        lack = f" and lacks '{first}'" if first is not None else ""
        raise MageKitError(f"perceptual: '{path}', holds '{foreign[0]}'{lack}, {rule}")
    for name, value in own.items():
        if name not in state:
            raise MageKitError(f"perceptual: '{path}', lacks '{name}', must be weights of {network}")
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, must be {tuple(value.shape)}"
            raise MageKitError(f"perceptual: '{path}', '{name}' is {shapes}: weights of another network than {network}")
        if not bool(torch.isfinite(state[name]).all()):
            raise MageKitError(f"perceptual: '{path}', '{name}' holds values that are not finite")
    module.load_state_dict({name: state[name].to(value.dtype) for name, value in own.items()}, strict=False)


def installed_file(package: str, file: str, network: str) -> Path:
    """Return a file of an installed package, which is not imported.

    Raises:
        MissingExtraError: If it is not installed.
        MageKitError: If it has no such file.
    """
    return package_file(package, file, f"perceptual network '{network}'", EXTRA)
