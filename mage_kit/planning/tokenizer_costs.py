"""What a tokenizer's training costs: counted on the meta device, where its networks run without numbers.

A trained network takes three passes of operations, one forward and two backward; a frozen one on the way of a gradient
takes two, since its weights need none. In a step of two players the adversary judges a picture and a reconstruction
(trained), and the reconstruction once more for the tokenizer (frozen); a perceptual network sees the reconstruction
with a gradient and the picture without: three passes. R1 takes the gradient at pictures, one pass, and that
gradient's own, two. Where losses are compared at the tokenizer's last layer, a gradient goes back once more through
whatever looks at the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from mage_kit.base.errors import RecipeError
from mage_kit.perceptual import PERCEPTUAL
from mage_kit.planning.estimate import Machine
from mage_kit.recipes.tokenizer_workload import TokenizerWorkload

_FLOAT = 4  # bytes
_TRAINED, _FROZEN, _PERCEPTUAL, _PENALTY, _COMPARED = 3.0, 2.0, 3.0, 3.0, 1.0  # passes, see above


@dataclass(frozen=True)
class TokenizerCosts:
    """Of one process, where not said otherwise.

    Args:
        parameters: Numbers by part.
        operations: FLOPs of a step by part, an image.
        standing: Bytes of weights, gradients, optimizer state and means.
        kept: Bytes kept for the backward pass, an image, in float32.
        micro: Images at once.
        steps: Optimizer steps.
        seconds_per_step: Of computing alone.
        traffic: Bytes that a process sends and receives a step.
    """

    parameters: dict[str, int]
    operations: dict[str, float]
    standing: float
    kept: float
    micro: int
    steps: int
    seconds_per_step: float
    traffic: float

    @property
    def peak(self) -> float:
        """Bytes, about: what stands, and what is kept of all images at once."""
        return self.standing + self.kept * self.micro

    @property
    def days(self) -> float:
        """Of the whole training."""
        return self.steps * self.seconds_per_step / 86_400


def tokenizer_costs(work: TokenizerWorkload, machine: Machine) -> TokenizerCosts:
    """Count what a training costs.

    Args:
        work: The training.
        machine: Processes and their rate.

    Raises:
        RecipeError: If the processes do not divide the batch.
    """
    if work.batch % machine.processes:
        rule = f"must be a multiple of the GPUs ({machine.processes})"
        raise RecipeError([f"$.training.batch: {work.batch}, {rule}"], work.name)
    images = torch.empty(1, work.tokenizer.channels, *work.tokenizer.image_size, device="meta")
    rebuilt = torch.empty_like(images)
    parameters, operations, kept = {}, {}, 0.0
    flops, bytes_kept = _pass(lambda: work.tokenizer.rehearse(images))
    share = 0.5 if work.decoder_alone else 1.0  # the encoder's half runs forward alone
    parameters["tokenizer"] = sum(value.numel() for value in work.tokenizer.parameters())
    operations["tokenizer"] = flops * (_TRAINED * share + (1 - share))
    kept += bytes_kept * share
    trained = own = sum(value.numel() for value in work.tokenizer.parameters() if value.requires_grad)
    compared = _COMPARED if work.adaptive else 0.0
    if work.perceptual is not None:
        kind = PERCEPTUAL.get(work.perceptual.kind).cls
        picture = kind.enlarged(rebuilt).requires_grad_()
        flops, bytes_kept = _pass(lambda: kind.rehearse(picture))
        operations[kind.network] = flops * (_PERCEPTUAL + compared)
        kept += bytes_kept
    if work.adversary is not None:
        adversary = work.adversary
        flops, bytes_kept = _pass(lambda: adversary(rebuilt.requires_grad_()))
        parameters["adversary"] = sum(value.numel() for value in adversary.parameters())
        operations["adversary"] = flops * (2 * _TRAINED + _FROZEN + (_PENALTY if work.penalty else 0.0) + compared)
        kept += bytes_kept
        trained += parameters["adversary"]
    local = work.batch // machine.processes
    rate = machine.processes * machine.tflops * 1e12 * machine.utilization
    frozen = parameters["tokenizer"] - own
    means = own if work.ema else 0
    return TokenizerCosts(
        parameters,
        operations,
        _FLOAT * (trained * (2 + work.state_values) + frozen + means),
        kept,
        min(work.micro_batch or local, local),
        work.steps,
        sum(operations.values()) * work.batch / rate,
        2 * _FLOAT * trained * (machine.processes - 1) / machine.processes,
    )


def _pass(run: Callable[[], Tensor]) -> tuple[float, float]:
    """Return operations of a forward pass of one image, and the bytes that it keeps for the backward pass."""
    sizes: dict[int, int] = {}
    tensors: list[Tensor] = []  # so that no place is counted for two

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
            tensors.append(tensor)
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return float(counter.get_total_flops()), float(sum(sizes.values()))
