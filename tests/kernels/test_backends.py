"""Which path of an operation ran, and that none stands in for another."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest
import torch
from mage_kernels import backend as backends
from mage_kernels import choose, remask
from torch import Tensor

from tests.kernels.test_triton import DEVICE


def test_which_path_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, Triton's operator is called and no other; `auto` on a CPU calls none, and says why."""
    from mage_kernels.triton import remask_kernel as remask_op

    called = []
    original = remask_op.remask
    monkeypatch.setattr(remask_op, "remask", lambda *given: called.append(1) or original(*given))
    monkeypatch.setattr(backends, "_choices", {})
    score = torch.rand(1, 4, device=DEVICE)
    arguments = (score, score >= 0, torch.tensor([2], device=DEVICE))
    remask(*arguments, backend="torch")
    remask(*arguments, backend="reference")
    assert not called
    remask(*arguments, backend="triton")
    assert called
    if DEVICE.type == "cpu":
        called.clear()
        remask(*arguments)
        assert not called
        (choice,) = (made for key, made in backends._choices.items() if key[1] == "auto")
        assert choice.implementation == "torch" and "CUDA" in choice.reason


def test_a_backend_that_cannot_run_is_an_error_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_choices", {})
    score = torch.rand(1, 4)
    arguments = (score, score >= 0, torch.tensor([2]))
    with pytest.raises(ValueError, match="backend: 'cuda', must be one of"):
        remask(*arguments, backend="cuda")  # type: ignore[arg-type]
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="backend: 'triton', cannot run remask on cpu: Triton does not run on cpu"):
            remask(*arguments, backend="triton")
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")

    def broken(*_: Any) -> None:
        raise RuntimeError("no such instruction\nand more")

    with pytest.raises(ValueError, match=r"failed at torch\.float32, width 4: RuntimeError: no such instruction$"):
        choose("remask", "triton", torch.device("cpu"), torch.float32, 4, broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("number", range(4))
def test_a_kernel_that_gives_something_else_is_not_taken(number: int, dtype: torch.dtype) -> None:
    """Each operation's own probe, right and with one number wrong."""
    operation = ("embed", "pad", "sample", "remask")[number]
    probe: Any = importlib.import_module(f"mage_kernels.ops.{operation}").probe
    assert backends._failure(probe, DEVICE, dtype, 9) is None

    def wrong(name: str, *given: Any) -> list[Tensor]:
        results = probe(name, *given)
        if name == "triton":
            last = results[-1].detach().clone().reshape(-1)
            last[4 % len(last)] = ~last[4 % len(last)] if last.dtype == torch.bool else torch.nan
            results[-1] = last.reshape(results[-1].shape)
        return results

    message = backends._failure(wrong, DEVICE, dtype, 9)
    assert message is not None and message.startswith(f"the kernel is wrong at {dtype}, width 9: "), message
    with pytest.raises(ValueError, match=r"backend: 'triton', cannot run .*: the kernel is wrong at"):
        backends._decide(operation, "triton", DEVICE, dtype, 9, wrong)
