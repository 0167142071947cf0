"""What every head has to hold: rows by themselves, draws that follow their uniform, log-probabilities that are true.

Legend: N rows, E decoder width, X values of a prediction.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

import mage_kit as mk

ROWS = 24
_DRAWS = 20_000


def head(part: mk.Head, embedding: nn.Module, width: int) -> None:
    """Run every check that applies.

    Args:
        part: The head.
        embedding: Of a model that sees the head's tokens.
        width: Decoder width E.
    """
    random = torch.Generator().manual_seed(0)
    features_NE = torch.randn(ROWS, width, generator=random)
    with torch.no_grad():
        predictions_NX = part(features_NE, embedding).float()
        parts = torch.cat([part(row[None], embedding) for row in features_NE]).float()
    torch.testing.assert_close(predictions_NX, parts, rtol=1e-4, atol=1e-5, msg="a row's predictions depend on others")
    targets = _tokens(part.spec, random)
    _rows(part, predictions_NX, targets)
    if part.draws:
        _draws(part, predictions_NX, random)
        if part.gives_log_p:
            _log_p(part, predictions_NX, targets)
            check = _frequencies if part.spec.discrete else _moments
            check(part, predictions_NX[:1], random)


def _tokens(spec: mk.TokenSpec, random: torch.Generator) -> Tensor:
    shape = (ROWS, *spec.token_shape)
    return torch.randint(spec.codes, shape, generator=random) if spec.codes else torch.randn(shape, generator=random)


def _rows(part: mk.Head, predictions_NX: Tensor, targets: Tensor) -> None:
    learned = predictions_NX.clone().requires_grad_()
    made = part.rows(learned, targets)
    assert made.rows_M.shape == (ROWS,) and made.rows_M.dtype == torch.float32 and made.rows_M.requires_grad
    made.rows_M[3].backward()
    assert learned.grad is not None
    assert bool(learned.grad[3].any()) and not bool(learned.grad[:3].any() | learned.grad[4:].any()), "rows mix"
    if made.hits_M is not None:
        assert set(made.hits_M.tolist()) <= {0.0, 1.0} and not made.hits_M.requires_grad


def _drawn(part: mk.Head, predictions: Tensor, uniform: Tensor, **rule: Any) -> mk.TokenDraw:
    masked = rule.pop("masked", None)
    return part.draw(predictions[None], uniform[None], None if masked is None else masked[None], mk.DrawRule(**rule))


def _draws(part: mk.Head, predictions_NX: Tensor, random: torch.Generator) -> None:
    uniform = torch.rand(ROWS, generator=random, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    made, again = (_drawn(part, predictions_NX, uniform) for _ in range(2))
    assert made.ids_BL.shape == (1, ROWS, *part.spec.token_shape) and made.ids_BL.dtype == part.spec.dtype
    assert made.log_p_BL.shape == (1, ROWS) and made.log_p_BL.dtype == torch.float32
    assert torch.equal(made.ids_BL, again.ids_BL), "a draw follows more than its uniform"
    assert not torch.equal(made.ids_BL, _drawn(part, predictions_NX, 1 - uniform).ids_BL), "uniforms are not read"
    order = torch.randperm(ROWS, generator=random)
    mixed = _drawn(part, predictions_NX[order], uniform[order])
    torch.testing.assert_close(mixed.ids_BL, made.ids_BL[:, order], msg="a row's draw depends on others")
    if part.gives_log_p:
        stated = part.log_p(predictions_NX[None], made.ids_BL)
        words = "log_p is not that of the token drawn"
        torch.testing.assert_close(made.log_p_BL, stated, rtol=1e-4, atol=1e-4, msg=words)
    reading = _drawn(part, predictions_NX, uniform, reads_predictions=True).predictions
    assert (reading is not None) == part.gives_predictions, "gives_predictions says something else than draw does"
    masked = torch.arange(ROWS) % 2 == 0
    half = _drawn(part, predictions_NX, uniform, masked=masked)
    assert not bool(half.log_p_BL[0, ~masked].any()), "known places have a confidence"
    torch.testing.assert_close(half.ids_BL[0, masked], made.ids_BL[0, masked])
    cold = [_drawn(part, predictions_NX, each, temperature=0.0).ids_BL for each in (uniform, 1 - uniform)]
    torch.testing.assert_close(cold[0], cold[1], msg="at temperature 0 there is one token")


def _moments(part: mk.Head, predictions_1X: Tensor, random: torch.Generator) -> None:
    """Values are drawn from the density that log_p states: by Stein's identity the mean of x . d log p / dx is -W."""
    uniform = torch.rand(_DRAWS, generator=random, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    rows = predictions_1X.expand(_DRAWS, -1)
    values = _drawn(part, rows, uniform).ids_BL.detach().requires_grad_()
    (slope,) = torch.autograd.grad(part.log_p(rows[None], values).sum(), values)
    each = (values * slope).detach().sum(dim=-1).double().flatten()
    gap = float((each.mean() + part.spec.width).abs() / (each.std() / _DRAWS**0.5))
    assert gap < 5, f"values are {gap:.1f} deviations from the density that log_p states"


def _log_p(part: mk.Head, predictions_NX: Tensor, targets: Tensor) -> None:
    """Of codes they add up to 1 over all tokens; the head's own loss is minus them."""
    log_p = part.log_p(predictions_NX[None], targets[None])[0]
    torch.testing.assert_close(part.rows(predictions_NX, targets).rows_M, -log_p, rtol=1e-4, atol=1e-4)
    if part.spec.codes:
        total = part.log_p(predictions_NX[:1].expand(len(_all(part.spec)), -1)[None], _all(part.spec)[None]).exp().sum()
        assert abs(float(total) - 1) < 1e-3, f"probabilities of all tokens add up to {float(total):.3f}"


def _frequencies(part: mk.Head, predictions_1X: Tensor, random: torch.Generator) -> None:
    """Tokens come up as often as their log-probabilities say: within 5 deviations of the count, each."""
    uniform = torch.rand(_DRAWS, generator=random, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    ids = _drawn(part, predictions_1X.expand(_DRAWS, -1), uniform).ids_BL[0]
    every = _all(part.spec)
    p = part.log_p(predictions_1X.expand(len(every), -1)[None], every[None])[0].exp().double()
    counts = (ids[:, None] == every).flatten(2).all(2) if ids.ndim > 1 else ids[:, None] == every
    gaps = (counts.double().mean(dim=0) - p).abs() / (p * (1 - p) / _DRAWS).sqrt().clamp_min(1e-9)
    assert float(gaps.max()) < 5, f"a token comes up {float(gaps.max()):.1f} deviations too often or too rarely"


def _all(spec: mk.TokenSpec) -> Tensor:
    """Every token: (V,), or (V^F, F)."""
    assert spec.codes is not None
    if spec.factors == 1:
        return torch.arange(spec.codes)
    return torch.tensor(list(itertools.product(range(spec.codes), repeat=spec.factors)))
