"""The benchmarks' own machinery: flags, checks that can fail, arithmetic of the table."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cases as made
from benchmarks.cases import Case, cases, close
from benchmarks.end_to_end import ratios
from benchmarks.sides import TOY, Bench, Settings
from benchmarks.table import finished, row, write
from benchmarks.timing import Timing, halves, timed
from benchmarks.workers import obey

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")


def pytest_says(*words: str) -> str:
    """Collect only: what pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"}
    )
    assert done.returncode in (0, 5), done.stdout + done.stderr
    return done.stdout


def test_the_bare_flag_runs_the_benchmarks_and_nothing_else() -> None:
    said = pytest_says("--benchmark")
    assert "benchmarks/test_bench_kernels.py" in said and "tests/test_" not in said


def test_without_the_flag_no_benchmark_is_collected() -> None:
    assert "test_bench_kernels" not in pytest_says("tests/benchmarks/test_benchmarks.py", ".")


@pytest.mark.parametrize("case", [case for case in cases(CPU) if case.size == "small"], ids=lambda case: case.name)
def test_every_operation_passes_its_check(case: Case) -> None:
    case.check()
    assert (case.moved > 0) != (case.flops > 0)


def test_every_operation_has_a_plain_form_to_be_compared_with() -> None:
    found = list(cases(CPU))
    plain = {(case.operation, case.size) for case in found if case.form == "plain"}
    assert {(case.operation, case.size) for case in found} == plain
    assert {"embed+grad", "pad+grad", "decode_step", "attention+grad", "dropout", "linear+gelu"} <= {
        case.operation for case in found
    }


def test_a_wrong_result_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*inputs: Any, **options: Any) -> torch.Tensor:
        out: torch.Tensor = real(*inputs, **options)
        return out if options["backend"] == "reference" else out.roll(1, dims=1)

    real = made.pad_tokens
    monkeypatch.setattr(made, "pad_tokens", shifted)
    case = next(case for case in cases(CPU) if case.name == "pad-small-torch")
    with pytest.raises(AssertionError, match="off by"):
        case.check()
    with pytest.raises(AssertionError, match="off by nan"):
        close(torch.full((2,), torch.nan), torch.ones(2), torch.ones(2))


def test_the_table_divides_by_the_ceiling_and_by_plain_torch() -> None:
    case = next(case for case in cases(CPU) if case.name == "pad-small-plain")
    plain = row(dataclasses.replace(case, moved=50.0), Timing(2.0, 0.1))
    ours = row(dataclasses.replace(case, moved=50.0, form="torch"), Timing(0.5, 0.1))
    lines = finished([plain, ours], {"copy": 100.0})
    assert [(line.rate, line.share, line.over_plain) for line in lines] == [(25.0, 0.25, 1.0), (100.0, 1.0, 4.0)]
    said: list[str] = []
    write(lines, {"copy": 100.0}, said.append)
    assert "GB/s" in said[-1] and said[-1].endswith("4.00x")


def test_times_are_medians_of_two_halves() -> None:
    assert halves([5, 1, 1, 2, 2, 9]) == Timing(1, 1.0)
    assert timed([lambda: None], CPU, warm=1, repeats=3).seconds >= 0


def test_ratios_are_of_medians() -> None:
    step = {
        "published, float32": [8.0, 8.0, 80.0], "published, same precision": [4.0, 4.0, 4.0],
        "mage_kit, live": [2.0, 2.0, 0.1], "mage_kit, cached": [1.0, 1.0, 1.0],
    }  # fmt: skip
    assert ratios({"step": step}) == {
        "step_ratio_live": 4, "step_ratio_live_same_precision": 2,
        "step_ratio_cached": 8, "step_ratio_cached_same_precision": 4,
    }  # fmt: skip


ORDERS = [("published", ["step same"]), ("mage_kit", ["step live", "step cached"])]


@pytest.mark.parametrize(("side", "orders"), ORDERS)
def test_both_sides_take_steps_and_generate(side: str, orders: list[str]) -> None:
    """On a shrunk recipe: the orders that the end-to-end comparison gives."""
    bench = Bench(Settings(2, 0.1, grid=4, made=2, changes=TOY), CPU, side)
    before = next(p.detach().clone() for group in bench.optimizer.param_groups for p in group["params"])
    for order in [*orders, f"generation {'mage_kit' if side == 'mage_kit' else 'float32'} 2"]:
        assert obey(bench, order)["seconds"] > 0
    after = next(p for group in bench.optimizer.param_groups for p in group["params"])
    assert not torch.equal(before, after)
    assert obey(bench, f"peak {orders[0]}")["peak"] > 1e6
