"""What a measure sends through the parts of a model, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mage_kit.layers.condition import Condition
from mage_kit.layers.embedding import open_plan
from mage_kit.models.mage import Mage
from mage_kit.planning.walk import walk_tokenizer

_COUNTED = 4  # images of the pass that operations are counted on


@dataclass(frozen=True)
class Passes:
    """Images that go through the parts of a model, forward alone.

    Args:
        tokenized: Through the tokenizer.
        encoded: Through the encoder, all tokens of them.
        generated: Decoded from nothing, in all steps.
    """

    tokenized: int = 0
    encoded: int = 0
    generated: int = 0


def operations_of(model: Mage, passes: Passes) -> float:
    """Return the operations of passes through a model on the meta device.

    Args:
        model: Built without memory.
        passes: Of a measure.
    """
    operations = 0.0
    if passes.tokenized:
        operations += passes.tokenized * walk_tokenizer(model.tokenizer, 1)[0]
    if passes.encoded:
        operations += passes.encoded * _encoder(model)
    if passes.generated and model.generates:
        operations += passes.generated * _generation(model)
    return operations


def _encoder(model: Mage) -> float:
    """Operations of an image through embedding and encoder, nothing masked."""
    from torch.utils.flop_counter import FlopCounterMode  # it brings Triton

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokens = _blank(model)
        model.encoder(model.embedding(tokens, open_plan(tokens)))
    return float(counter.get_total_flops()) / _COUNTED


def _generation(model: Mage) -> float:
    """Operations of an image in all decoding steps: the whole model sees the whole grid in each, guided ones decode it
    twice."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokens = _blank(model)
        masked_BL = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        condition = (
            None if model.classes is None else Condition(torch.zeros(_COUNTED, dtype=torch.int64, device="meta"))
        )
        model.logits(tokens, masked_BL, condition, guidance=0.0 if model.decoding.guidance is None else 1.0)
    return float(counter.get_total_flops()) / _COUNTED * model.decoding.steps


def _blank(model: Mage) -> torch.Tensor:
    spec = model.streams[model.input]
    kind = torch.int64 if spec.discrete else torch.float32
    return torch.zeros(spec.shape(_COUNTED), dtype=kind, device="meta")
