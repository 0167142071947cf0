"""Whether transformer blocks are compiled for a training: as asked, else where a block measured so is faster."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from mage_kernels.attention import first_line
from mage_kernels.attention_choice import seconds_of

from mage_kit.base.precision import Decision
from mage_kit.layers.blocks import Block
from mage_kit.training.kernels import attention_shape

_MARGIN = 1.05  # by which a compiled block has to be faster


def compile_decision(
    asked: bool | Literal["auto"], model: Any, device: torch.device, precision: str, images: int
) -> Decision:
    """Return "on" or "off", and why.

    Args:
        asked: The recipe's word.
        model: The first block of its encoder is measured.
        device: Where.
        precision: "float32" or "bfloat16".
        images: At once in training.
    """
    if asked != "auto":
        return Decision("on" if asked else "off", f"compile {str(asked).lower()} was asked for")
    if device.type != "cuda":
        return Decision("off", f"by rule: on a {device.type} the compiler takes minutes and gains little")
    block = next((module for module in model.encoder.modules() if isinstance(module, Block)), None)
    if block is None:
        return Decision("off", "the encoder has no blocks of ours")
    count, _, length, _ = attention_shape(model, model.encoder, block.attn, images)
    return measured(block, (count, length), device, precision == "bfloat16")


def measured(block: Block, shape: tuple[int, int], device: torch.device, low: bool, **options: Any) -> Decision:
    """Run a block forward and backward as it is written and compiled; see `compile_decision`.

    Args:
        block: A copy of it is run.
        shape: (images, positions).
        device: Where.
        low: Whether products are in bfloat16.
        options: Of torch.compile.
    """
    block = copy.deepcopy(block).to(device).train()
    block.compiled = None
    width = block.norm1.normalized_shape[0]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        inputs = torch.randn(*shape, width, device=device, requires_grad=True)
        grad = torch.randn(*shape, width, device=device)

        def call() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                output = block(inputs)
            output.backward(grad)

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
    done = f"images are tokenised in each step, by {count} compiled encoders" if count else "images are tokenised live"
    return f"{done}; mage-kit tokenize does it once, and train --tokens reads what it wrote"
