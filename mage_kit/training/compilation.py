"""Whether transformer blocks are compiled for a training: as asked, else where a block measured so is faster."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from mage_kernels.attention import first_line
from mage_kernels.attention_choice import seconds_of
from torch import Tensor

from mage_kit.base.precision import Decision
from mage_kit.layers.blocks import Block
from mage_kit.training.kernels import attention_shape

if TYPE_CHECKING:
    from mage_kit.training.job import Job

_MARGIN = 1.05  # by which a compiled block has to be faster


def compile_decision(job: Job, model: Any, device: torch.device, precision: str) -> Decision:
    """Return "on" or "off", and why.

    Args:
        job: What its recipe says of blocks, and how many images are computed at once.
        model: The first block of its encoder is measured, with the attention that was chosen for it.
        device: Where.
        precision: "float32" or "bfloat16".
    """
    if job.compile != "auto":
        return Decision("on" if job.compile else "off", f"compile {str(job.compile).lower()} was asked for")
    if device.type != "cuda":
        return Decision("off", f"by rule: on a {device.type} the compiler takes minutes and gains little")
    encoder: Any = getattr(model, "encoder", None)
    blocks = [] if encoder is None else [module for module in encoder.modules() if isinstance(module, Block)]
    if not blocks:
        return Decision("off", "there is no encoder with blocks of ours")
    count, _, length, _ = attention_shape(model, encoder, blocks[0].attn, job.layout.micro)
    block = copy.deepcopy(blocks[0]).to(device).train()
    block.recompute = job.recompute
    dtype = torch.bfloat16 if job.residual == "bfloat16" and precision == "bfloat16" else torch.float32
    inputs = torch.randn(count, length, block.norm1.normalized_shape[0], device=device, dtype=dtype)
    return measure_block(block, inputs.requires_grad_(), precision == "bfloat16")


def measure_block(block: Block, inputs: Tensor, low: bool, **options: Any) -> Decision:
    """Run a block forward and backward as it is written and compiled; see `compile_decision`.

    Args:
        block: On the inputs' device; its gradients are the price.
        inputs: (B, N, D), with gradients.
        low: Whether products are in bfloat16.
        options: Of torch.compile.
    """
    device = inputs.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        grad = torch.randn_like(inputs)

        def call() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                output = block(inputs)
            output.backward(grad)

        block.compiled = None
        plain = seconds_of(call, device)
        block.compiled = torch.compile(Block.run, **{"dynamic": False, **options})
        try:
            call()  # compiles
            fast = seconds_of(call, device)
        except Exception as error:  # no compiler, no Triton, an operator it cannot: as many as there are machines
            cause = getattr(error, "inner_exception", error)  # torch wraps a compiler's own words
            return Decision("off", f"a block cannot be compiled here ({type(cause).__name__}: {first_line(cause)})")
    words = f"a block, forward + backward: {plain * 1e3:.2f} ms as written, {fast * 1e3:.2f} ms compiled"
    return Decision("on" if plain > _MARGIN * fast else "off", words)


def compile_tokenizers(model: Any) -> str:
    """Have the encoders of a model's tokenizers compiled at their first call; return what to say of it.

    On a GPU torch's GroupNorm leaves the layout and the precision of the convolutions around it, so that tokenizing
    costs as much as a ViT-L step; compiled, norms and activations are a few kernels.
    """
    tokenizers = [model.tokenizer, *getattr(model, "targets", {}).values()]
    count = sum(tokenizer.compile_encoder(dynamic=False) for tokenizer in tokenizers)
    words = f"images are tokenised in each step, by {count} compiled encoders" if count else "images are tokenised live"
    return f"{words}; mage-kit tokenize does it once, and train --tokens reads what it wrote"
