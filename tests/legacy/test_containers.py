"""What files hold beside the weights, and where the weights stand in them."""

from __future__ import annotations

import argparse
import pickle
import resource
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy import Options, import_checkpoint
from tests.legacy.files import MINI, OPTIONS, TAMING, refused, same_tokens
from tests.parity.recording import DATA


def test_training_state_and_command_line_are_passed_over(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MAGE's scripts save it: model, optimizer, epoch, scaler, args; and taming's, with Lightning's classes."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    rest = {"optimizer": optimizer.state_dict(), "epoch": 7, "scaler": {"scale": 65536.0}}
    torch.save({"model": weights, **rest, "args": argparse.Namespace(lr=1e-3, model="x")}, tmp_path / "script.pth")
    imported = import_checkpoint(tmp_path / "script.pth", options=OPTIONS)
    same_tokens(imported.part)
    assert imported.origin.card["not_weights"] == ["optimizer", "epoch", "scaler", "args"]

    name = "pytorch_lightning.callbacks.model_checkpoint"
    kept = type("ModelCheckpoint", (), {"__module__": name, "__qualname__": "ModelCheckpoint"})
    tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    with monkeypatch.context() as patch:
        for parts in range(1, 4):
            place = ".".join(name.split(".")[:parts])
            patch.setitem(sys.modules, place, types.ModuleType(place))
        sys.modules[name].ModelCheckpoint = kept  # type: ignore[attr-defined]
        content = {"state_dict": tensors, "callbacks": {kept: {"best": 0.1}}, "global_step": 3}
        torch.save(content, tmp_path / "last.ckpt")
    assert isinstance(import_checkpoint(tmp_path / "last.ckpt").part, mk.TamingVQGAN)


@pytest.mark.parametrize("form", ["bare", "safetensors", "wrapped", "old"])
def test_other_containers(form: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "wrapped":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "bare")
    same_tokens(import_checkpoint(path, options=OPTIONS).part)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    tensors = torch.load(DATA / "llamagen" / "llamagen_mini.pt", weights_only=True)["model"]
    raw = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    torch.save({"model": raw, "ema": tensors}, tmp_path / "both.pt")
    imported = import_checkpoint(tmp_path / "both.pt")
    assert imported.origin.card["sources"][0]["weights_under"] == "ema"
    assert float(imported.part.state_dict()["quantize.embedding.weight"].abs().sum()) > 0
    asked = import_checkpoint(tmp_path / "both.pt", weights="model")
    assert float(asked.part.state_dict()["quantize.embedding.weight"].abs().sum()) == 0
    with pytest.raises(mk.MageKitError, match="weights: 'modle', did you mean 'model'"):
        import_checkpoint(tmp_path / "both.pt", weights="modle")
    torch.save({"model": tensors, "ema": {"decay": torch.tensor(0.999)}}, tmp_path / "settings.pt")
    assert import_checkpoint(tmp_path / "settings.pt").origin.card["sources"][0]["weights_under"] == "model"


def test_tensors_nobody_knows_are_left_out_on_request_alone(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["projector.0.weight"] = torch.ones(3, 3)
    torch.save({"model": weights}, tmp_path / "more.pth")
    refused(tmp_path / "more.pth", "1 unexpected: projector.0.weight")
    imported = import_checkpoint(tmp_path / "more.pth", options=Options(None, 4, 4, ignore=("projector.",)))
    (item,) = (item for item in imported.origin.card["unused"] if item["name"] == "projector.0.weight")
    assert item["reason"] == "left out on request"
    assert torch.equal(imported.origin.unused["projector.0.weight"], torch.ones(3, 3))
    assert "leave them out with --ignore projector." in refused(tmp_path / "more.pth", "unexpected")
    for prefix in ("zzz", "blocks."):
        options = Options(None, 4, 4, ignore=("projector.", prefix))
        assert f"ignore: '{prefix}'" in refused(
            tmp_path / "more.pth", "no tensor that could be left out", options=options
        )


def test_mask_token_padding(weights: dict[str, Tensor]) -> None:
    """A model trained with it reads the tensor that others leave unused."""
    imported = import_checkpoint(MINI, options=Options(None, 4, 4, padding="mask_token"))
    part = imported.part
    assert isinstance(part, mk.Mage) and isinstance(part.padding, mk.MaskTokenPadding)
    assert torch.equal(part.padding.mask_token, weights["mask_token"].float().flatten())
    assert "mask_token" not in {item["name"] for item in imported.origin.card["unused"]}


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    """Deflated zeros: 2 MB that would take 2 GB; nothing of it is read."""
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 22))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(mk.MageKitError, match=r"bytes that unpack to 268,\d{3},\d{3}, must be weights"):
        import_checkpoint(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 1024, "KiB"
