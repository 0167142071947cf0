"""Samples as files: as many as wanted, in parts, by several calls or processes, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli.app import app
from mage_kit.generation.sample_forms import ArrayParts, PictureParts
from tests import build

SILENT = {"reporter": Reporter.silent(), "steps": 2}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> mk.Mage:
    return build.mage().eval()


def pixels(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.name: np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_hold_what_generate_gives(model: mk.Mage, tmp_path: Path) -> None:
    expected = (mk.generate(model, 7, first=3, seed=5, steps=2).images_BCHW * 255).byte().numpy()
    folder = mk.write_samples(model, 7, tmp_path / "many", first=3, seed=5, batch=3, **SILENT)
    assert [*pixels(folder)] == [f"{index:06d}.png" for index in range(3, 10)]
    np.testing.assert_array_equal(np.stack([*pixels(folder).values()]), expected[:, 0])
    file = mk.write_samples(model, 7, tmp_path / "many.npz", first=3, seed=5, batch=4, **SILENT)
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays.files == ["arr_0"], "an unconditional model has no labels"
        np.testing.assert_array_equal(arrays["arr_0"], expected.transpose(0, 2, 3, 1))
    for settings in (
        json.loads((folder / "settings.json").read_text()),
        json.loads(file.with_suffix(".json").read_text()),
    ):
        assert (settings["first"], settings["images"], settings["seed"]) == (3, 7, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "many.json", "many.npz"], "no part stays"


def test_two_calls_for_the_halves_equal_one(model: mk.Mage, tmp_path: Path) -> None:
    whole = pixels(mk.write_samples(model, 9, tmp_path / "whole", **SILENT))
    first = mk.write_samples(model, 4, tmp_path / "first", batch=3, **SILENT)
    second = mk.write_samples(model, 5, tmp_path / "second", first=4, **SILENT)
    halves = {**pixels(first), **pixels(second)}
    assert [*halves] == [*whole]
    assert all(np.array_equal(halves[name], whole[name]) for name in whole)


@pytest.mark.parametrize("name", ["many", "many.npz"])
def test_a_killed_call_goes_on(model: mk.Mage, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mk.write_samples(model, 10, tmp_path / "whole" / name, batch=2, **SILENT)
    calls: list[int] = []
    make = mk.Sampler.make

    def count(self: mk.Sampler, start: int, size: int, **options: Any) -> mk.Generated:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(start)
        return make(self, start, size, **options)

    monkeypatch.setattr(mk.Sampler, "make", count)
    with pytest.raises(KeyboardInterrupt):
        mk.write_samples(model, 10, tmp_path / name, batch=2, **SILENT)
    assert not (tmp_path / name).exists(), "what is not whole has another name"
    (tmp_path / f"{name}.parts" / ".000009.png.abcd1234").write_bytes(b"half")  # as a kill while writing leaves it
    calls.clear()
    monkeypatch.setattr(mk.Sampler, "make", make)
    add = PictureParts.add if name == "many" else ArrayParts.add
    monkeypatch.setattr(
        PictureParts if name == "many" else ArrayParts, "add", lambda *words: calls.append(len(words[2])) or add(*words)
    )
    out = mk.write_samples(model, 10, tmp_path / name, batch=3, **SILENT)
    assert sum(calls) == 4, "six were there already"
    if name == "many":
        assert contents(out) == contents(whole)
    else:
        np.testing.assert_array_equal(np.load(out)["arr_0"], np.load(whole)["arr_0"])
    assert not (tmp_path / f"{name}.parts").exists()


def test_parts_of_other_settings_are_not_mixed(model: mk.Mage, tmp_path: Path) -> None:
    out = tmp_path / "many"
    with PictureParts(out, {"first": 0, "images": 4, "seed": 9}).hold(overwrite=False):
        pass
    with pytest.raises(mk.MageKitError, match="unfinished samples of other seed, precision"):
        mk.write_samples(model, 4, out, **SILENT)
    mk.write_samples(model, 4, out, overwrite=True, **SILENT)
    with pytest.raises(mk.MageKitError, match="exists; choose another"):
        mk.write_samples(model, 4, out, **SILENT)
    settings = json.loads((out / "settings.json").read_text())
    mk.write_samples(model, 3, out, overwrite=True, **SILENT)
    assert len(pixels(out)) == 3, "none of an earlier, larger call stays among the new ones"
    with PictureParts(tmp_path / "other", settings).hold(overwrite=False):
        pass
    with pytest.raises(mk.MageKitError, match="samples of other weights_sha256;"):
        mk.write_samples(build.mage(seed=1).eval(), 4, tmp_path / "other", **SILENT)


def test_a_folder_at_which_another_is_at_work_is_left_alone(model: mk.Mage, tmp_path: Path) -> None:
    busy = PictureParts(tmp_path / "many", {"first": 0, "images": 4}).hold(overwrite=False)
    with busy, pytest.raises(mk.MageKitError, match="is in use by process"):
        mk.write_samples(model, 4, tmp_path / "many", **SILENT)
    (tmp_path / "mine.parts").mkdir()
    (tmp_path / "mine.parts" / "thesis.txt").write_text("all of it")
    with pytest.raises(mk.MageKitError, match=r"holds thesis\.txt, which is no part of samples"):
        mk.write_samples(model, 4, tmp_path / "mine", overwrite=True, **SILENT)
    assert (tmp_path / "mine.parts" / "thesis.txt").read_text() == "all of it"


def test_labels_stand_beside_the_images(tmp_path: Path) -> None:
    model = build.mage(decoder=mk.ClassViTDecoder(32, 16, dim=24, depth=1, heads=4, classes=3)).eval()
    file = mk.write_samples(model, 5, tmp_path / "x.npz", first=1, labels=[2, 0, 1], **SILENT)
    assert np.load(file)["arr_1"].tolist() == [0, 1, 2, 0, 1]
    folder = mk.write_samples(model, 2, tmp_path / "x", first=1, labels=[2, 0, 1], gif=True, **SILENT)
    with Image.open(folder / "000002.png") as picture:
        stated = json.loads(picture.info["mage_kit"])
    assert stated["label"] == 1 and "labels" not in stated
    assert Image.open(folder / "steps.gif").n_frames == 2


def test_the_command_says_what_cannot_be(model: mk.Mage, tmp_path: Path) -> None:
    run = mk.save(model, tmp_path / "model")
    for options, says in [
        (["-n", "4097"], "a sheet holds 4096 images at most"),
        (["--separate", "--out", str(tmp_path / "x.npz")], "with --separate it must be a folder"),
        (["--out", str(tmp_path / "x.jpg")], "must be named .png"),
        (["--processes", "2"], "a sheet is made by one"),
    ]:
        done = CliRunner().invoke(app, ["generate", str(run), *options])
        assert done.exit_code and says in str(done.exception or "") + done.output, done.output
    done = CliRunner().invoke(
        app, ["generate", str(run), "-n", "3", "--first", "2", "--steps", "2", "--out", str(tmp_path / "y.npz")]
    )
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "y.npz")["arr_0"].shape == (3, 16, 16, 1)


PEAK = """
import resource, sys
import torch
import mage_kit as mk
from mage_kit.base.progress import Reporter
torch.set_num_threads(1)
model = mk.load(sys.argv[1])
mk.write_samples(model, int(sys.argv[2]), sys.argv[3], steps=1, reporter=Reporter.silent())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["many", "many.npz"])
def test_memory_does_not_grow_with_their_number(model: mk.Mage, name: str, tmp_path: Path) -> None:
    """16,000 images peak within 20 MiB of 4,000."""
    run = mk.save(model, tmp_path / "model")
    peaks = []
    for count in (4000, 16000):
        out = tmp_path / str(count) / name
        program = [sys.executable, "-c", PEAK, str(run), str(count), str(out)]
        peaks.append(float(subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout))
    assert peaks[1] - peaks[0] < 20, peaks


@pytest.mark.slow
def test_two_processes_killed_half_way_go_on_and_equal_one(model: mk.Mage, tmp_path: Path) -> None:
    run = mk.save(model, tmp_path / "model")
    command = [sys.executable, "-m", "mage_kit.cli", "generate", str(run), "-n", "240", "--steps", "6", "--batch", "4"]
    out = tmp_path / "two"
    two = [*command, "--separate", "--out", str(out), "--processes", "2"]
    process = subprocess.Popen(two, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    parts = out.with_name("two.parts")
    for _ in range(600):
        if parts.is_dir() and len([*parts.glob("*.png")]) > 50:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert parts.is_dir() and not out.exists(), "it was killed too late"
    done = subprocess.run(two, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [*command, "--separate", "--out", str(tmp_path / "one")], cwd=ROOT, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    assert contents(out) == contents(tmp_path / "one")
