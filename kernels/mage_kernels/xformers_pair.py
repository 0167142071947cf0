"""Which torch xformers was built for: with another one its operators refuse CUDA tensors, though it imports."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

_ABOUT = "cpp_lib.json"  # what its build wrote of itself


def xformers_build() -> str | None:
    """Return the torch version that the installed xformers was built for, as "2.10.0+cu128"; nothing is imported.

    Returns:
        None where it is not installed, or does not say.
    """
    spec = importlib.util.find_spec("xformers")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        try:
            return str(json.loads((Path(place) / _ABOUT).read_text())["version"]["torch"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def xformers_problem(running: str = torch.__version__) -> str | None:
    """Return why xformers computes nothing on CUDA with this torch; None where it was built for it, or is not there.

    Args:
        running: The version of torch.
    """
    built = xformers_build()
    if built is None or _release(built) == _release(running):
        return None
    pair = f"torch {'.'.join(_release(built))} ({built.partition('+')[2] or 'its own CUDA'})"
    rule = "SDPA runs instead; the extra 'xformers' installs the pair that works"
    return f"built for {pair}, this is torch {running}: its operators refuse CUDA tensors, {rule}"


def _release(version: str) -> list[str]:
    return version.partition("+")[0].split(".")[:2]
