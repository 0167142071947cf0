"""What would run here, and why: every operation with its choice, for people who ask before they train."""

from __future__ import annotations

import torch

from mage_kernels.attention_choice import choose_attention, generation_form
from mage_kernels.backend import Choice, choose, triton_problem
from mage_kernels.ops import embed, pad, remask, sample
from mage_kernels.packing import packing_problem

_WIDTH = 768
_SHAPE = (8, 12, 129, 64)  # attention of a ViT-B encoder: images, heads, kept positions, head width


def survey(device: torch.device, backend: str = "auto") -> list[Choice]:
    """Return the choice of every operation on a device, each probed by running it.

    Args:
        device: Where training or generation would run.
        backend: The backend asked for.

    Raises:
        ValueError: If a backend is unknown, or asked for by name and cannot run here.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    probes = {
        "embed_kept": embed.probe,
        "pad_tokens": pad.probe,
        "sample_tokens": sample.probe,
        "remask": remask.probe,
    }
    rows = [choose(name, backend, device, dtype, _WIDTH, probe) for name, probe in probes.items()]
    for kind in dict.fromkeys((dtype, torch.bfloat16)):
        training = choose_attention(backend, device, kind, _SHAPE, 0.1)
        rows.append(Choice(f"attention, training in {str(kind)[6:]}", training.implementation, training.reason))
    for kind in (torch.float32, torch.bfloat16):
        choice = generation_form(device, kind)
        if backend == "reference":
            choice = choose_attention(backend, device, kind, _SHAPE, 0.0, gradients=False)
        rows.append(Choice(f"attention, generation in {str(kind)[6:]}", choice.implementation, choice.reason))
    cpu = device.type == "cpu"
    reason = (
        "a word serves several values; large masks hash a counter" if cpu else f"torch's own is fast on {device.type}"
    )
    rows.append(Choice("dropout", "cheap masks" if cpu else "torch", reason))
    packing = packing_problem(device)
    rows.append(
        Choice("linear, generation", "torch" if packing else "packed", packing or "weights in oneDNN's own layout")
    )
    problem = triton_problem(device)
    if problem is not None and device.type != "cuda":
        rows.append(Choice("(triton)", "not used", problem))
    if cpu:
        rows.append(Choice("(xformers)", "not used", "its attention has no operators for CPUs"))
    return rows
