"""The contracts of quantizers and optimizers: over every registered one, those written outside, and mutants."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from tests.contracts import optimizer_checks, quantizer_checks
from tests.contracts.test_components import kinds, make


def plugin(module: str, name: str, **words: Any) -> Any:
    """A part written outside; imported by the test, so that it is registered no longer than that."""
    return getattr(importlib.import_module(f"tests.plugins.{module}"), name)(**words)


def spread(part: mk.Quantizer) -> mk.Quantizer:
    """Codes as far apart as features are, as training leaves them."""
    with torch.no_grad():
        for name, value in part.named_parameters():
            if name == "embedding.weight":
                value.normal_(generator=torch.Generator().manual_seed(1))
    return part


@pytest.mark.parametrize("kind", kinds("quantizers"))
def test_quantizers(kind: str) -> None:
    quantizer_checks.quantizer(spread(make("quantizers", kind)))


def test_a_quantizer_of_its_own() -> None:
    quantizer_checks.quantizer(plugin("level_quantizer", "LevelQuantizer"))


@pytest.mark.parametrize("kind", kinds("optimizers"))
def test_optimizers(kind: str) -> None:
    part = make("optimizers", kind)
    optimizer_checks.optimizer(mk.LARS(trust=0.02) if kind == "lars" else part)


def test_an_optimizer_of_its_own() -> None:
    optimizer_checks.optimizer(plugin("lion", "Lion"))


class _NoGradient(mk.GradientCodebook):
    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> mk.Quantized:
        out = super().forward(features_BLW.detach(), progress, random)
        return mk.Quantized(out.codes_BLW + 0 * features_BLW.sum(), out.ids_BL, out.loss)


class _OneMore(mk.GradientCodebook):
    def nearest(self, features_BLW: Tensor) -> Tensor:
        return super().nearest(features_BLW) + 1


class _Farthest(mk.GradientCodebook):
    def nearest(self, features_BLW: Tensor) -> Tensor:
        return super().nearest(-features_BLW)


@pytest.mark.parametrize(
    ("mutant", "rule"),
    [(_NoGradient, "no gradient reaches"), (_OneMore, "codes that there are not"), (_Farthest, "no nearer")],
)
def test_quantizers_that_are_wrong_are_caught(mutant: type[mk.Quantizer], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        quantizer_checks.quantizer(spread(mutant(codes=32 if mutant is not _OneMore else 4, width=4)))


class _Signs(torch.optim.Optimizer):
    """Keeps its mean where no state dict sees it."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.means: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # returns no loss
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.means.setdefault(parameter, torch.zeros_like(parameter)).lerp_(parameter.grad, 0.1)
                    parameter.sub_(mean, alpha=group["lr"])


class _Hidden(mk.Optimizer):
    state_values = 0.0

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return _Signs(groups)


class _Small(mk.AdamW):
    state_values = 1.0


class _OwnRate(mk.AdamW):
    def make(self, groups: list[dict[str, Any]]) -> Any:
        return torch.optim.SGD([{**group, "rate": 1.0, "maximize": True} for group in groups], lr=0.1)


@pytest.mark.parametrize(
    ("mutant", "rule"), [(_Hidden, "not all of it"), (_Small, "keeps 2.0 numbers, states 1.0"), (_OwnRate, "uphill")]
)
def test_optimizers_that_are_wrong_are_caught(mutant: type[mk.Optimizer], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        optimizer_checks.optimizer(mutant())
