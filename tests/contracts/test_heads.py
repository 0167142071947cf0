"""The contract of heads: over those of the package, over two written outside, and over mutants that must fail."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.layers.embedding import TokenEmbedding
from tests.contracts import head_checks

GRID = mk.TokenGrid(4, 4)
CODES = mk.TokenSpec(GRID, 16, 4)
FACTORS = mk.TokenSpec(GRID, 5, 4, factors=3)
VALUES = mk.TokenSpec(GRID, None, 6)


def plugin(module: str, name: str, *words: Any) -> mk.Head:
    """A head written outside; imported by the test, so that it is registered no longer than that."""
    made: mk.Head = getattr(importlib.import_module(f"tests.plugins.{module}"), name)(*words)
    return made


HEADS: dict[str, Callable[[], mk.Head]] = {
    "codes": lambda: mk.CodeHead(CODES, 24, 32, True),
    "codes by a table of their own": lambda: mk.CodeHead(CODES, 24, 32, False),
    "several ids a token": lambda: mk.CodeHead(FACTORS, 24, 32, True),
    "values": lambda: mk.ValueHead(VALUES, 24),
    "bits": lambda: plugin("bit_head", "BitHead", CODES, 24),
    "gaussian": lambda: plugin("gaussian_head", "GaussianHead", VALUES, 24),
}


def check(part: mk.Head) -> None:
    head_checks.head(part, TokenEmbedding(part.spec, 32, mk.EmbeddingConfig()), 24)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", HEADS)
def test_heads(kind: str) -> None:
    check(HEADS[kind]())


def test_every_registered_head_is_checked() -> None:
    shipped = {
        mk.HEADS.get(kind).cls for kind in mk.HEADS.kinds() if mk.HEADS.get(kind).cls.__module__[:8] == "mage_kit"
    }
    assert shipped == {mk.CodeHead, mk.ValueHead}, "a new one belongs in HEADS above"


class Deaf(mk.CodeHead):
    """Draws whatever the uniforms are."""

    def draw(self, predictions_BLX: Tensor, uniform_BL: Tensor, *rest: Any) -> mk.TokenDraw:
        return super().draw(predictions_BLX, torch.full_like(uniform_BL, 0.5), *rest)


class Hot(mk.CodeHead):
    """Draws at twice the temperature that it states."""

    def draw(self, predictions_BLX: Tensor, uniform_BL: Tensor, *rest: Any) -> mk.TokenDraw:
        made = super().draw(predictions_BLX / 2, uniform_BL, *rest)
        log_p = self.log_p(predictions_BLX, made.ids_BL)
        masked_BL = rest[0]
        log_p = log_p if masked_BL is None else log_p.masked_fill(~masked_BL, 0.0)
        return mk.TokenDraw(made.ids_BL, log_p, made.predictions)


class Heavy(mk.CodeHead):
    """Its probabilities add up to more than one."""

    def log_p(self, predictions_BLX: Tensor, ids_BL: Tensor) -> Tensor:
        return super().log_p(predictions_BLX, ids_BL) + 0.5


class Mixing(mk.CodeHead):
    """A row's predictions depend on the other rows."""

    def forward(self, features_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        return super().forward(features_ME - features_ME.mean(dim=0), embedding)


def test_a_head_of_values_that_draws_too_widely_fails() -> None:
    part = plugin("gaussian_head", "GaussianHead", VALUES, 24)
    draw = part.draw

    def wide(predictions_BLX: Tensor, uniform_BL: Tensor, *rest: Any) -> mk.TokenDraw:
        mean, _ = part._split(predictions_BLX)
        made = draw(predictions_BLX, uniform_BL, *rest)
        values = mean + 2 * (made.ids_BL - mean)
        log_p = part.log_p(predictions_BLX, values)
        return mk.TokenDraw(values, log_p if rest[0] is None else log_p.masked_fill(~rest[0], 0.0), None)

    part.draw = wide  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="deviations from the density that log_p states"):
        check(part)


@pytest.mark.parametrize(
    ("mutant", "said"),
    [
        (Deaf, "uniforms are not read"),
        (Hot, "deviations too often or too rarely"),
        (Heavy, "log_p is not that of the token drawn"),
        (Mixing, "a row's predictions depend on others"),
    ],
)
def test_mutants_of_heads(mutant: type[mk.CodeHead], said: str) -> None:
    with torch.no_grad():
        part = mutant(CODES, 24, 32, False)
        part.table.mul_(30)  # predictions that differ
    with pytest.raises(AssertionError, match=said):
        check(part)
