"""Every door that takes a device says in one sentence which ones there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.base import devices
from mage_kit.base.devices import check_device
from mage_kit.evaluation.generation_metrics.extractor import load_extractor
from tests import build

ABSENT = [
    "mps",
    "cuda:7",
    "CPU",
    "Cuda",
    "cpu:1",
    "xla",
    "nonsense",
    "",
    "cuda:",
    "cuda:-1",
    "cuda:01",
    None,
    7,
]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", [*ABSENT, "cuda", torch.device("mps"), torch.device("cuda", 0)])
def test_what_is_not_there(device: Any) -> None:
    with pytest.raises(mk.MageKitError, match=r"^device: .*, must be one of cpu; [^\n]*$"):
        check_device(device)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("mps", "float64, which MPS does not have"),
        ("cuda:7", "this torch is built without CUDA|torch finds no GPU here"),
        ("cuda", "device: 'cuda', must be one of cpu; "),
        ("CPU", "'CPU', did you mean 'cpu'?"),
        ("cpu:1", "what this machine has, written as here"),
        ("xla", "models run on CPUs and CUDA GPUs"),
    ],
)
def test_why(device: str, words: str) -> None:
    with pytest.raises(mk.MageKitError, match=words.replace("?", r"\?")):
        check_device(device)


def test_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_device("cpu") == check_device("cpu:0") == check_device(torch.device("cpu")) == torch.device("cpu")
    assert check_device("meta").type == "meta"
    monkeypatch.setattr(devices, "_gpus", lambda: 2)
    assert [str(check_device(name)) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(mk.MageKitError, match=r"device: 'cuda:2'.*must be one of cpu, cuda:0, cuda:1, cuda;"):
        check_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["mps", "cuda:7", torch.device("xla")])
@pytest.mark.parametrize("door", [mk.load, mk.load_classifier, mk.load_tokenizer])
def test_doors(door: Callable[..., Any], device: Any, tmp_path: Path) -> None:
    """Before anything is read: the folder need not even be there."""
    with pytest.raises(mk.MageKitError, match=r"device: .* must be one of cpu"):
        door(tmp_path / "nothing", device)
    with pytest.raises(mk.MageKitError, match=r"device: .* must be one of cpu"):
        door(tmp_path / "nothing", device=device)


@pytest.mark.usefixtures("no_gpu")
def test_extractors(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"not read")
    with pytest.raises(mk.MageKitError, match="device: 'mps'"):
        load_extractor(tmp_path / "network.pt", device="mps")


def test_shapes_alone(tmp_path: Path) -> None:
    mk.save(build.mage(), tmp_path / "model")
    assert mk.load(tmp_path / "model", "meta").device.type == "meta"
