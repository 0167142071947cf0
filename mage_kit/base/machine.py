"""What a machine has, and the packages that matter on it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mage_kernels.xformers_pair import xformers_problem

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
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
            about = xformers_problem() if package == "xformers" else None
            rows.append((package, version(package) + (f", {about}" if about else "")))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    return rows


def memory_size() -> int:
    """Return the bytes of memory that a process may take here: the machine's, or its container's where that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (place.read_text().strip() for place in map(Path, _LIMITS) if place.is_file())
    return min([whole, *(int(text) for text in limits if text.isdigit())])
