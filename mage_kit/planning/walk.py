"""Operations and kept bytes, layer by layer: a pass on the meta device tells the shapes, formulas the cost.

A product of (r x i) and (i x o) is 2 r i o operations. docs/planning.md has all formulas.
Legend: B images, n positions, d width, H heads, h hidden width, M loss rows, V codes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mage_kit.heads import Head
from mage_kit.layers.blocks import MLP, Block, SelfAttention
from mage_kit.layers.embedding import TokenEmbedding
from mage_kit.losses import BatchMasks, Loss
from mage_kit.models.mage import Mage
from mage_kit.tokenizers import Tokenizer
from mage_kit.tokenizers.streams import tokenizer_of

PARTS = ("encoder", "decoder", "head", "losses")
AttentionKind = Literal["matmul", "fused"]


@dataclass
class Cost:
    """What one part of a pass costs.

    Args:
        forward: Operations of the forward pass.
        training: Operations of forward and backward.
        activations: Bytes kept for the backward pass.
        block: Of `activations`, what lies inside transformer blocks, which recomputation gives back.
        inputs: Bytes of those blocks' inputs, which recomputation keeps.
        largest: Bytes that the largest block keeps.
    """

    forward: float = 0.0
    training: float = 0.0
    activations: float = 0.0
    block: float = 0.0
    inputs: float = 0.0
    largest: float = 0.0

    def add(self, forward: float, backward: float, activations: float = 0.0) -> None:
        """Take in a layer; `backward` in multiples of `forward`."""
        self.forward += forward
        self.training += forward * (1 + backward)
        self.activations += activations


@dataclass(frozen=True)
class Numbers:
    """Bytes of a value.

    Args:
        low: Of products: 2 in bfloat16, 4 in float32.
        mask: Of a dropout mask: 2 on a CPU, where masks are 16 bits wide, else 1.
        attention: "matmul" keeps the weights (float32), "fused" kernels keep a row sum.
    """

    low: int = 2
    mask: int = 1
    attention: AttentionKind = "fused"


def walk_step(model: Mage, images: int, ratio: float, numbers: Numbers) -> dict[str, Cost]:
    """Return the cost of a training pass by part (embedding and padding count to what follows them).

    Args:
        model: On the meta device.
        images: Of the pass, each with as many views as the losses need.
        ratio: Mask ratio of all.
        numbers: Bytes of a value.
    """
    costs = {name: Cost() for name in PARTS}
    views = model.views
    rows = images * views
    ratio_B = torch.full((rows,), ratio, dtype=torch.float64)
    tokens = {}
    for name in model.reads:
        spec = model.streams[name]
        kind = torch.int64 if spec.discrete else torch.float32
        tokens[name] = torch.zeros(spec.shape(rows), dtype=kind, device="meta")
    plan = model.plan(ratio_B, torch.empty(rows, model.spec.grid.size, device="meta"))
    masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), views)
    training = model.training
    model.train()
    try:
        with _watching(model, costs, numbers), torch.no_grad():
            model(tokens, plan, masks)
    finally:
        model.train(training)
    if model.frozen:  # forward alone, and nothing is kept of it
        costs["encoder"] = Cost(forward=costs["encoder"].forward, training=costs["encoder"].forward)
    return costs


def walk_tokenizers(model: Mage, images: int) -> tuple[float, float]:
    """Return the operations of tokenising images for a model, and the bytes of the largest feature map on the way."""
    owners = {tokenizer_of(name, list(model.targets)) for name in model.reads}
    tokenizers = [model.tokenizer if owner is None else model.targets[owner] for owner in sorted(owners, key=str)]
    costs = [walk_tokenizer(each, images) for each in tokenizers if isinstance(each, Tokenizer)]
    return sum(operations for operations, _ in costs), max((largest for _, largest in costs), default=0.0)


def walk_tokenizer(tokenizer: Tokenizer, images: int) -> tuple[float, float]:
    """Return the operations of encoding images, and the bytes (float32) of the largest feature map on the way."""
    operations, largest = 0.0, 0.0

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations, largest
        if isinstance(module, nn.Conv2d):
            window = math.prod(module.kernel_size) * module.in_channels // module.groups
            operations += 2.0 * output.numel() * window
        else:
            operations += 2.0 * output.numel() * inputs[0].shape[-1]
        largest = max(largest, 4.0 * output.numel())

    handles = [
        part.register_forward_hook(look) for part in tokenizer.modules() if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    shape = (images, tokenizer.channels, *tokenizer.image_size)
    try:
        with torch.no_grad():
            tokenizer.encode(torch.zeros(shape, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    spec = tokenizer.spec
    if spec.codes:
        operations += 2.0 * images * spec.grid.size * spec.codes * spec.factors * spec.width
    return operations, largest


@contextlib.contextmanager
def _watching(model: Mage, costs: dict[str, Cost], numbers: Numbers) -> Iterator[None]:
    """Have every layer of the model account for itself while it runs."""
    rules: dict[type[nn.Module], Callable[[Cost, Any, tuple[Any, ...], Any, Numbers], None]] = {
        nn.Linear: _linear,
        nn.LayerNorm: _norm,
        SelfAttention: _attention,
        MLP: _mlp,
        TokenEmbedding: _embedding,
        Head: _head,
        Loss: _loss,
    }
    homes = {"embedding": "encoder", "padding": "decoder", "heads": "head"}
    handles = []
    for name, part in model.named_modules():
        top = name.split(".")[0]
        cost = costs.get(homes.get(top, top))
        rule = next((rule for kind, rule in rules.items() if isinstance(part, kind)), None)
        if cost is None or name.startswith(("tokenizer", "targets")):
            continue
        if isinstance(part, Block):
            handles += _bracket(part, cost)
        elif rule is not None:
            handles.append(part.register_forward_hook(_hook(rule, cost, numbers)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(rule: Callable[..., None], cost: Cost, numbers: Numbers) -> Callable[[Any, Any, Any], None]:
    def look(module: Any, inputs: Any, output: Any) -> None:
        rule(cost, module, inputs, output, numbers)

    return look


def _bracket(block: Block, cost: Cost) -> list[Any]:
    """Tell what a block keeps from what surrounds it."""
    before = 0.0

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal before
        before = cost.activations

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        inside = cost.activations - before
        cost.block += inside
        cost.inputs += 4.0 * inputs[0].numel()
        cost.largest = max(cost.largest, inside)

    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]


# -- what each kind of layer costs -----------------------------------------------------------------------------


def _linear(cost: Cost, layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor, numbers: Numbers) -> None:
    """2 r i o, twice that again backward; its input is kept."""
    cost.add(2.0 * output.numel() * layer.in_features, 2, numbers.low * inputs[0].numel())


def _norm(cost: Cost, layer: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor, numbers: Numbers) -> None:
    """Its input is kept in float32, with mean and deviation of each row."""
    cost.activations += 4.0 * inputs[0].numel() + 8.0 * inputs[0].numel() / inputs[0].shape[-1]


def _attention(cost: Cost, layer: SelfAttention, inputs: tuple[Tensor, ...], output: Tensor, numbers: Numbers) -> None:
    """4 n^2 d: logits and mixing. Kept: q, k, v; the weights, or a sum a row; the masks of both dropouts."""
    images, count, width = inputs[0].shape
    pairs = float(images * layer.heads * count * count)
    drops = layer.dropout > 0
    activations = numbers.low * 3.0 * inputs[0].numel()
    if numbers.attention == "matmul":
        activations += pairs * (4 + numbers.mask * drops)
    else:
        activations += 4.0 * images * layer.heads * count
    activations += numbers.mask * drops * inputs[0].numel()
    cost.add(4.0 * images * count * count * width, 2 if numbers.attention == "matmul" else 2.5, activations)


def _mlp(cost: Cost, layer: MLP, inputs: tuple[Tensor, ...], output: Tensor, numbers: Numbers) -> None:
    """Kept beside the inputs of its products: GELU's input, and the masks of both dropouts."""
    values = inputs[0].numel() * layer.fc1.out_features / layer.fc1.in_features
    cost.activations += numbers.low * values + numbers.mask * (layer.dropout > 0) * (values + output.numel())


def _embedding(cost: Cost, layer: TokenEmbedding, inputs: Any, output: Tensor, numbers: Numbers) -> None:
    """Kept: the sum of row and position, for the norm, and the dropout's mask."""
    config = layer.config
    cost.activations += output.numel() * (4.0 * config.norm + numbers.mask * (config.dropout > 0))


def _head(cost: Cost, layer: Head, inputs: tuple[Any, ...], output: Tensor, numbers: Numbers) -> None:
    """What the head says of itself, beside its linear layers and norms."""
    own = layer.cost(output.numel() / output.shape[-1], numbers.low)
    cost.add(own.forward, own.backward, own.stored)


def _loss(cost: Cost, loss: Loss, inputs: tuple[Any, ...], output: Any, numbers: Numbers) -> None:
    """What a loss says of itself, beside its linear layers and norms."""
    own = loss.cost(inputs[0])
    cost.add(own.forward, own.backward, own.stored)
    if loss.reads_predictions:
        cost.activations += 4.0 * inputs[0].predictions_MX.numel()  # log-probabilities, or differences
