"""Samples on disk where something went wrong: gaps, kills at the end, somebody else's files, links."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.generation.sample_forms import ArrayParts, PictureParts
from tests import build
from tests.generation.test_sample_files import pixels

SILENT: dict[str, Any] = {"reporter": Reporter.silent(), "steps": 2}


@pytest.fixture(scope="module")
def model() -> mk.Mage:
    return build.mage().eval()


def kill(*words: Any, **options: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("form", "name"), [(PictureParts, "many"), (ArrayParts, "many.npz")])
def test_what_is_missing_is_no_end(form: Any, name: str, model: mk.Mage, tmp_path: Path) -> None:
    """Machines that share no folder, say: nobody takes a part for the whole."""
    add = form.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "add", lambda self, start, *words: None if start == 4 else add(self, start, *words))
        with pytest.raises(mk.MageKitError, match=r"many.*\.parts', lacks 2 of 9 images, number 4 first"):
            mk.write_samples(model, 9, tmp_path / name, batch=2, **SILENT)
    assert not (tmp_path / name).exists()
    mk.write_samples(model, 9, tmp_path / name, batch=2, **SILENT)


def test_what_came_meanwhile_is_left_alone(model: mk.Mage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thesis, make = tmp_path / "many" / "thesis.txt", mk.Sampler.make

    def late(self: mk.Sampler, *words: Any, **options: Any) -> mk.Generated:
        thesis.parent.mkdir(exist_ok=True)
        thesis.write_text("all of it")
        (tmp_path / "many.npz").write_bytes(b"mine")
        return make(self, *words, **options)

    monkeypatch.setattr(mk.Sampler, "make", late)
    for name in ("many", "many.npz"):
        with pytest.raises(mk.MageKitError, match="exists; choose another"):
            mk.write_samples(model, 2, tmp_path / name, **SILENT)
    assert thesis.read_text() == "all of it" and (tmp_path / "many.npz").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["os.replace", "write_json", "shutil.rmtree"])
def test_killed_between_the_file_and_what_lies_beside_it(place: str, model: mk.Mage, tmp_path: Path) -> None:
    """Before the move, after it, and while the parts go: the same call comes to its end."""
    whole = np.load(mk.write_samples(model, 4, tmp_path / "whole" / "x.npz", **SILENT))["arr_0"]
    out = tmp_path / "killed" / "x.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"mage_kit.generation.sample_forms.{place}", kill)
        with pytest.raises(KeyboardInterrupt):
            mk.write_samples(model, 4, out, gif=True, **SILENT)
    mk.write_samples(model, 4, out, gif=True, **SILENT)
    np.testing.assert_array_equal(np.load(out)["arr_0"], whole)
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.gif", "x.json", "x.npz"]


def test_parts_of_two_batch_sizes_may_overlap(model: mk.Mage, tmp_path: Path) -> None:
    images = (mk.generate(model, 7, steps=2).images_BCHW * 255).byte().numpy()
    expected, out = images.transpose(0, 2, 3, 1), tmp_path / "x.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayParts, "finish", kill)
        with pytest.raises(KeyboardInterrupt):
            mk.write_samples(model, 7, out, batch=3, **SILENT)
    ArrayParts(out, {"first": 0, "images": 7}).add(2, images[2:6], None)  # by a process that outlived its call
    mk.write_samples(model, 7, out, batch=2, **SILENT)
    np.testing.assert_array_equal(np.load(out)["arr_0"], expected)


def test_a_link_is_followed_and_numbers_have_ends(model: mk.Mage, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    mk.write_samples(model, 2, tmp_path / "link", **SILENT)
    assert (tmp_path / "link").is_symlink() and len(pixels(tmp_path / "disk")) == 2
    for n, first in ((0, 0), (10**12, 0), (1, -1), (1, 2**63)):
        with pytest.raises(ValueError, match=r"n: |first: "):
            mk.write_samples(model, n, tmp_path / "x", first=first, **SILENT)


@pytest.mark.parametrize("form", ["x.npz", "x"])
@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_damaged_parts_are_made_again(form: str, harm: str, model: mk.Mage, tmp_path: Path) -> None:
    """A bit that fell over, or a file cut short, between two calls."""
    whole = mk.write_samples(model, 6, tmp_path / "whole" / form, **SILENT)
    out = tmp_path / "killed" / form
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayParts if form == "x.npz" else PictureParts, "finish", kill)
        with pytest.raises(KeyboardInterrupt):
            mk.write_samples(model, 6, out, batch=2, **SILENT)
    parts = sorted(path for path in out.with_name(f"{form}.parts").iterdir() if path.suffix in (".npy", ".png"))
    assert len(parts) == (3 if form == "x.npz" else 6)
    content = bytearray(parts[1].read_bytes())
    if harm == "flip":
        content[-20] ^= 1
    parts[1].write_bytes(content if harm == "flip" else content[: len(content) // 2])
    mk.write_samples(model, 6, out, batch=2, **SILENT)
    if form == "x.npz":
        np.testing.assert_array_equal(np.load(out)["arr_0"], np.load(whole)["arr_0"])
    else:
        found, owed = pixels(out), pixels(whole)
        assert found.keys() == owed.keys() and all(np.array_equal(found[name], owed[name]) for name in owed)


def test_a_name_that_means_a_picture_is_refused(model: mk.Mage, tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match=r"out: '.*x\.png', must be a folder, of which each image is a file, or"):
        mk.write_samples(model, 2, tmp_path / "x.png", **SILENT)
