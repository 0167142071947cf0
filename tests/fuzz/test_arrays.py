"""Tensors, arrays and numbers at every door of the Python interface: one sentence, or what is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mage_kit as mk
from tests import build
from tests.fuzz.judge import outcome

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 5, 1.5, 0.0, -0.5, 1e30, float("nan"), float("inf"), 10**30, True, None, "3", "x", "", b"1", [], [1],
    {}, (1, 2), np.int64(2), np.float32(0.5), np.array(2), torch.tensor(2), torch.tensor([1, 2]), 2**63, -(2**63),
)  # fmt: skip
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> mk.Mage:
    return build.mage().eval()


@pytest.fixture(scope="module")
def classifier() -> mk.MageClassifier:
    tokenizer = build.vqgan()
    encoder = mk.ViTEncoder(dim=32, depth=1, heads=4)
    return mk.MageClassifier(tokenizer=tokenizer, encoder=encoder, classes=3).eval()


def some_tensor(draw: random.Random, right: Tensor) -> Any:
    """Something that may stand where a tensor of a right form is due, now and then the right one itself."""
    torch.manual_seed(draw.randrange(2**31))
    what = draw.randrange(8)
    value: Any = right.clone()
    if what == 0:
        return draw.choice(NUMBERS)
    if what == 1:
        shape = [draw.choice((0, 1, 2, 3, 16, 17)) for _ in range(draw.randrange(6))]
        value = torch.rand(shape)
    elif what == 2:
        value = value.to(draw.choice(DTYPES))
    elif what == 3:
        scale = draw.choice((-1.0, 2.0, 255.0, 1e9, float("nan"), float("inf")))
        whole = 5 if scale != scale else int(min(scale, 1e9))
        value = value * scale if value.is_floating_point() else value.to(torch.int64) + whole
    elif what == 4 and value.ndim > 1:
        value = value.transpose(-1, 0)
    elif what == 5 and value.numel():
        place = draw.randrange(value.numel())
        value.view(-1)[place] = draw.choice((-3, 10**6)) if not value.is_floating_point() else float("nan")
    elif what == 6:
        value = draw.choice((value[:0], value[0], value[None], value.unsqueeze(-1), value.squeeze()))
    return (
        value.numpy() if isinstance(value, Tensor) and draw.random() < 0.15 and value.dtype != torch.bfloat16 else value
    )


def doors(model: mk.Mage, classifier: mk.MageClassifier) -> dict[str, tuple[Tensor, Callable[[Any], Any]]]:
    """Doors by name: what is right there, and the call."""
    images = torch.rand(2, 1, 16, 16)
    tokens = torch.randint(0, 32, (2, 16))
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, :5] = True
    labels = torch.tensor([0, 2])
    conditional = build.mage(decoder=mk.ClassViTDecoder(32, 16, dim=24, depth=1, heads=4, classes=3)).eval()
    return {
        "encode": (images, model.tokenizer.encode),
        "decode": (tokens, model.tokenizer.decode),
        "features": (images, model.features),
        "logits": (tokens, lambda value: model.logits(value, masked)),
        "logits, masked": (masked, lambda value: model.logits(tokens, value)),
        "classify": (images, classifier.logits),
        "decode_tokens": (tokens, lambda value: mk.decode_tokens(model, value, masked)),
        "decode_tokens, masked": (masked, lambda value: mk.decode_tokens(model, tokens, value)),
        "token_features": (tokens, model.token_features),
        "block_features": (tokens, model.block_features),
        "classify tokens": (tokens, classifier),
        "straight_through": (tokens, lambda value: mk.straight_through(model, value, masked)),
        "straight_through, masked": (masked, lambda value: mk.straight_through(model, tokens, value)),
        "condition": (
            labels,
            lambda value: mk.decode_tokens(conditional, tokens, masked, condition=mk.Condition(value)),
        ),
        "reconstruct": (images[0, 0], lambda value: mk.reconstruct(model, value, 0.5, steps=1)),
        "inpaint, mask": (
            masked[0].reshape(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1),
            lambda value: mk.inpaint(model, Image.new("L", (16, 16)), value, steps=1),
        ),
    }


def try_array(number: int, every: dict[str, tuple[Tensor, Callable[[Any], Any]]]) -> None:
    draw = random.Random(f"array-{number}")
    name = draw.choice([*every])
    right, call = every[name]
    value = some_tensor(draw, right)
    shape = getattr(value, "shape", value)
    result = outcome((number, name, shape, getattr(value, "dtype", type(value))), lambda: call(value))
    for part in [result] if isinstance(result, Tensor) else []:
        assert bool(torch.isfinite(part).all()), (number, name, shape)


KEYWORDS = (
    "n",
    "seed",
    "first",
    "batch",
    "steps",
    "token_temperature",
    "top_k",
    "top_p",
    "guidance",
    "labels",
    "precision",
    "schedule",
    "selection",
)


def try_call(number: int, model: mk.Mage) -> None:
    draw = random.Random(f"call-{number}")
    options: dict[str, Any] = {"n": 2, "steps": 2}
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(KEYWORDS)
        options[name] = draw.choice(NUMBERS)
        if name == "n" and isinstance(options[name], int) and options[name] > 100:
            options[name] = -7
    outcome((number, options), lambda: mk.generate(model, options.pop("n"), **options))


def test_some(model: mk.Mage, classifier: mk.MageClassifier) -> None:
    every = doors(model, classifier)
    for name, (right, call) in every.items():
        assert not isinstance(outcome(name, lambda right=right, call=call: call(right)), Exception), name
    for number in range(150):
        try_array(number, every)
        try_call(number, model)


@pytest.mark.slow
def test_five_hundred(model: mk.Mage, classifier: mk.MageClassifier) -> None:
    every = doors(model, classifier)
    for number in range(150, 650):
        try_array(number, every)
        try_call(number, model)
