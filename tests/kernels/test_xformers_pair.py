"""Whether the installed xformers fits the installed torch, without importing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from mage_kernels.xformers_pair import xformers_build, xformers_problem

from mage_kit.base.machine import machine


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package by that name, ahead of any other, which must not be imported."""
    place = tmp_path / "xformers"
    place.mkdir()
    (place / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xformers", raising=False)
    return place / "cpp_lib.json"


def test_the_pair_that_works_is_named(installed: Path) -> None:
    installed.write_text(json.dumps({"version": {"cuda": 1208, "torch": "2.10.0+cu128"}}))
    assert xformers_build() == "2.10.0+cu128"
    assert xformers_problem("2.10.1+cu128") is None
    said = xformers_problem("2.11.0+cu130")
    assert said is not None and said.startswith("built for torch 2.10 (cu128), this is torch 2.11.0+cu130: ")
    assert "SDPA runs instead" in said and "'xformers'" in said


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"version": null}'])
def test_one_that_does_not_say_is_left_alone(installed: Path, text: str | None) -> None:
    if text is not None:
        installed.write_text(text)
    assert xformers_build() is None and xformers_problem("2.11.0") is None


def test_doctor_tells_it(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.write_text(json.dumps({"version": {"torch": "1.0.0+cu1"}}))
    monkeypatch.setattr("mage_kit.base.machine.version", lambda package: "9.9")
    rows = dict(machine(torch.device("cpu")))
    assert rows["xformers"].startswith("9.9, built for torch 1.0 (cu1), this is torch ") and rows["triton"] == "9.9"
