"""What a machine has, and the packages that matter on it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("mage-kit", "torch", "triton", "xformers", "lightning-fabric", "msgpack")


def machine(device: torch.device) -> list[tuple[str, str]]:
    """Return (what, value) of the machine and of the packages that matter."""
    rows = [
        ("python", platform.python_version()),
        ("processor", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        rows.append(("GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"))
    else:
        rows.append(("GPU", "none that torch can use"))
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    return rows
