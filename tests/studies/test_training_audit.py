"""What the train command says of a tokenizer as soon as it is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from mage_kit.store.run_folders import AUDIT_FILE, AUDIT_PICTURE
from mage_kit.studies.training_audit import TrainingAudit
from mage_kit.training.events import EndEvent
from tests.training.test_adversarial import ALONE, game


def test_the_command_audits_what_it_trained(tmp_path: Path) -> None:
    recipe = game(**ALONE).changed("data", part="training")
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    done = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "run" / AUDIT_FILE).read_text())
    assert result["images"] == "held out" and result["reconstructions"]["images"] == 200
    assert result["verdict"].startswith("Do not train on these tokens yet") and "frechet" not in result
    picture = Image.open(tmp_path / "run" / AUDIT_PICTURE)
    assert picture.width > 8 * 32 and picture.height > 4 * 32


def test_colour_pictures_are_judged_by_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = game(**ALONE).changed("tokenizer", channels=3).changed("data", part="held_out")
    run = mk.train(recipe, tmp_path / "run", on_end=TrainingAudit(recipe, Reporter()))
    result = json.loads((run / AUDIT_FILE).read_text())
    assert result["images"] == "of those that were trained on"
    assert result["frechet"]["network"] == "EfficientNet-Lite0"
    assert result["frechet"]["value"] > result["frechet"]["floor"] > 0
    assert "no FID" in capsys.readouterr().err


def test_an_audit_that_was_killed_is_made_when_the_run_goes_on(tmp_path: Path) -> None:
    recipe = game(**{**ALONE, "steps": 2})
    path, run = tmp_path / "recipe.json", tmp_path / "run"
    path.write_text(recipe.to_json())
    mk.train(recipe, run)  # as the command does, but for what comes after the last step
    command = ["train", str(path), "--out", str(run), "--resume"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0 and (run / AUDIT_FILE).is_file(), first.output
    written = (run / AUDIT_FILE).stat().st_mtime_ns
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (run / AUDIT_FILE).stat().st_mtime_ns == written, "once"


def test_what_cannot_be_audited_is_said_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = game(**{**ALONE, "steps": 2})
    lost = recipe.extended(data={"kind": "image_folder", "path": str(tmp_path / "nowhere")})
    run = mk.train(recipe, tmp_path / "run", on_end=TrainingAudit(lost, Reporter()))
    assert "tokenizer not audited:" in capsys.readouterr().err and not (run / AUDIT_FILE).exists()
    assert (run / "tokenizer").is_dir()


def test_one_that_was_cut_short_is_not_audited(tmp_path: Path) -> None:
    recipe = game(**ALONE)
    run = mk.train(recipe, tmp_path / "run", until=2, on_end=TrainingAudit(recipe, Reporter()))
    assert not (run / AUDIT_FILE).exists()


def test_images_that_cannot_be_read_are_passed_over_in_the_picture(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for index in range(20):
        (data / f"a-{index:02d}.png").write_bytes(b"no image")
        Image.new("L", (32, 32), index * 10).save(data / f"b-{index:02d}.png")
    images = {"kind": "image_folder", "path": str(data), "max_broken": 0.5}
    recipe = game(**{**ALONE, "steps": 2}).extended(data=images)
    run = mk.train(recipe, tmp_path / "run", on_end=TrainingAudit(recipe, Reporter()))
    result = json.loads((run / AUDIT_FILE).read_text())
    assert result["reconstructions"]["broken"] == result["reconstructions"]["images"] == 20
    assert Image.open(run / AUDIT_PICTURE).width > 8 * 32


def test_whose_the_pictures_are_stands_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tokenizer = {**game(**ALONE).tokenizer.model_dump(mode="json"), "channels": 3}
    data = {"kind": "pictograms", "part": "training", "side": 32}
    recipe = game(**{**ALONE, "steps": 2}).extended(tokenizer=tokenizer, data=data)
    run = mk.train(recipe, tmp_path / "run", on_end=TrainingAudit(recipe, Reporter()))
    assert "OpenMoji" in capsys.readouterr().err
    labels = []
    monkeypatch.setattr("mage_kit.studies.training_audit.labelled_rows", lambda rows, scale: labels.extend(rows))
    monkeypatch.setattr("mage_kit.studies.training_audit.save_picture", lambda picture, path: None)
    TrainingAudit(recipe, Reporter())(EndEvent("tokenizer", 2, run / "tokenizer", True))
    words = [text for text, _ in labels]
    assert "OpenMoji" in words[0] and words[1:3] == ["as reconstructed before this training", "and after it"]
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0 and "CC BY-SA 4.0" in (run / "report.html").read_text()
