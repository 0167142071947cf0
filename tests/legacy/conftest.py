"""The command line in this process, and the small MAGE checkpoint's tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mage_kit.cli import main
from tests.legacy.files import MINI


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, output, errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mage-kit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        caught = capsys.readouterr()
        return int(stopped.value.code or 0), caught.out, caught.err

    return call


@pytest.fixture
def weights() -> dict[str, Tensor]:
    held: dict[str, Tensor] = torch.load(MINI, weights_only=True)["model"]
    return held
