"""Which devices this machine has for a model, and which one an argument means: the one place that says so."""

from __future__ import annotations

import torch

from mage_kit.base.errors import MageKitError, nearest


def device_names() -> list[str]:
    """Return the names of this machine's devices: "cpu", then "cuda:0" and so on, as many as torch can use."""
    return ["cpu", *(f"cuda:{number}" for number in range(_gpus()))]


def check_device(device: object) -> torch.device:
    """Return the device that an argument means; nothing is placed on it yet.

    Args:
        device: "cpu", "cuda" (the current GPU), "cuda:N", or such a torch.device; "meta" for shapes alone.

    Raises:
        MageKitError: If this machine has no such device, or models do not run on its kind; names those that there are.
    """
    name = str(device) if isinstance(device, str | torch.device) else ""
    names = device_names()
    if name == "cpu:0":
        return torch.device("cpu")
    if name in (*names, "meta"):
        return torch.device(name)
    if name == "cuda" and len(names) > 1:
        return torch.device("cuda")
    shown = f"'{name}'" if name else repr(device)
    hint = "" if name in ("cpu", "cuda") else nearest(name.lower(), names)
    raise MageKitError(f"device: {shown}{hint}, must be one of {_choices(names)}{_why(name)}")


def _gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _choices(names: list[str]) -> str:
    return ", ".join([*names, "cuda"] if len(names) > 1 else names)


def _why(name: str) -> str:
    """What explains that a device is not there; nothing for what is no device's name."""
    kind = name.lower().partition(":")[0]
    if kind == "cuda" and not _gpus():
        built = torch.version.cuda is not None or torch.version.hip is not None
        return "; torch finds no GPU here" if built else "; this torch is built without CUDA"
    if kind == "mps":
        return "; noise and sampling need float64, which MPS does not have"
    if kind in ("cpu", "cuda"):
        return "; these are what this machine has, written as here"
    return "; models run on CPUs and CUDA GPUs"
