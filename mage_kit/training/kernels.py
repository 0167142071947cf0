"""What a recipe asks of the kernels: refused before anything is trained if it cannot run, else chosen by measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mage_kernels import choose_attention, survey
from mage_kernels.attention_choice import attention_problem
from torch import nn

from mage_kit.base.precision import Decision
from mage_kit.base.progress import Reporter
from mage_kit.layers.block_settings import WithBlocks
from mage_kit.layers.blocks import SelfAttention

if TYPE_CHECKING:
    from mage_kit.training.job import Job


def kernel_problems(model: Any, device: torch.device, precision: str, images: int) -> list[str]:
    """Try what a recipe asks for by name; return a line for a backend or a form that cannot run.

    Args:
        model: Carries what is asked, `backend` and `attention`; the meta device will do.
        device: Where training would run.
        precision: As asked: "auto", "float32" or "bfloat16".
        images: At once in training.
    """
    problems = []
    if model.backend == "triton":
        try:
            survey(device, model.backend)
        except ValueError as error:
            problems.append(f"$.kernels.{error}")
    if model.attention != "auto":
        for name in ("encoder", "decoder"):
            part = getattr(model, name, None)
            problem = None if part is None else _attention_problem(model, part, device, precision, images)
            if problem is not None:
                problems.append(f"$.kernels.attention: {model.attention}, cannot train here: {problem}")
                break
    return problems


def part_attention(model: Any, part: nn.Module, device: torch.device, precision: str, images: int) -> Decision:
    """Choose the attention form of a part: as asked, else the faster one at its shape.

    Args:
        model: Whose part it is.
        part: Its encoder or decoder.
        device: Where.
        precision: "float32" or "bfloat16".
        images: At once in training.
    """
    block = next((module for module in part.modules() if isinstance(module, SelfAttention)), None)
    if block is None:
        return Decision("sdpa", "no attention in it")
    if model.attention != "auto":
        return Decision(model.attention, f"attention '{model.attention}' was asked for")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    choice = choose_attention(model.backend, device, dtype, attention_shape(model, part, block, images), block.dropout)
    return Decision(choice.implementation, choice.reason)


def set_blocks(model: nn.Module, job: Job, reporter: Reporter) -> None:
    """Set transformer blocks as the recipe says; say so where there is nothing to set."""
    settings = {"recompute": job.recompute, "compile": job.compile is True, "residual": job.residual == "bfloat16"}
    counts = dict.fromkeys(settings, 0)
    if isinstance(model, WithBlocks):
        counts["recompute"] = model.set_recomputation(job.recompute)
        counts["compile"] = model.compile_training() if settings["compile"] else 0
        counts["residual"] = model.set_residual(torch.bfloat16 if settings["residual"] else torch.float32)
    for name, is_on in settings.items():
        if is_on and not counts[name]:
            reporter.say(f"$.kernels.{name}: asked for, but this model has no blocks of ours: nothing changes")
    if counts["compile"]:
        reporter.say(f"compiling {counts['compile']} blocks, of each kind one, at the first step, which takes longer")


def _attention_problem(model: Any, part: nn.Module, device: torch.device, precision: str, images: int) -> str | None:
    """Why the form asked for runs in none of the precisions that training may take."""
    block = next((module for module in part.modules() if isinstance(module, SelfAttention)), None)
    if block is None:
        return None
    kinds = {"float32": [torch.float32], "bfloat16": [torch.bfloat16]}.get(precision, [torch.bfloat16, torch.float32])
    shape = attention_shape(model, part, block, images)
    problems = [attention_problem(model.attention, device, kind, shape, block.dropout) for kind in kinds]
    return None if None in problems else problems[0]


def attention_shape(model: Any, part: nn.Module, block: SelfAttention, images: int) -> tuple[int, int, int, int]:
    """Return (B, H, N, d) of a part's attention in training, of all views of so many images."""
    n_dropped = getattr(model, "n_dropped", 0) if part is model.encoder else 0
    count, width = images * getattr(model, "views", 1), block.qkv.in_features // block.heads
    return count, block.heads, 1 + model.spec.grid.size - n_dropped, width
