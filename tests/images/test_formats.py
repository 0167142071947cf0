"""Of all that Pillow can decode, files reach the decoders that are promised, and no other, whatever their names say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.base.errors import BrokenImageError
from mage_kit.images.image_files import FORMATS, SUFFIXES, open_image

Image.init()
OTHERS = sorted(set(Image.OPEN) - set(FORMATS))
READ = [name for name in FORMATS if name in Image.OPEN and name in Image.SAVE]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch ran) (w) file\nshowpage\n"


def test_there_are_many_others() -> None:
    assert len(OTHERS) >= 30 and {"EPS", "WMF", "PSD", "FITS"} & set(OTHERS)


@pytest.mark.parametrize("other", OTHERS)
def test_no_other_decoder_is_reached(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder takes every file for its own, and would be caught at work."""

    def work(*_: Any) -> None:
        raise AssertionError(f"{other} decodes")

    monkeypatch.setitem(Image.OPEN, other, (work, lambda _: True))
    file = tmp_path / "picture.png"
    file.write_bytes(bytes(range(64)))
    with pytest.raises(BrokenImageError, match=r"a .* file; read are JPEG, "):
        open_image(file)
    with pytest.raises(BrokenImageError, match=r"'memory'.*a .* file; read are"):
        open_image(io.BytesIO(bytes(range(64))), "memory")


def test_postscript_named_png_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "picture.png"
    file.write_bytes(POSTSCRIPT)
    with pytest.raises(BrokenImageError, match=r"picture\.png.*a EPS file; read are JPEG"):
        open_image(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", READ)
def test_what_is_promised_is_read(name: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 12), (200, 30, 30))
    image.save(tmp_path / "picture.x", format=name)
    assert open_image(tmp_path / "picture.x").size == (20, 12)


def test_every_suffix_of_a_folder_is_read(tmp_path: Path) -> None:
    for number, suffix in enumerate(sorted(SUFFIXES)):
        kind = {"pgm": "PPM", "jpe": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000"}.get(suffix[1:])
        kind = kind or Image.registered_extensions().get(suffix)
        if kind in Image.SAVE:
            Image.new("RGB", (16, 16)).save(tmp_path / f"{number}{suffix}", format=kind)
    folder = mk.ImageFolder((16, 16), 3, path=str(tmp_path))
    assert len(folder) == len(list(tmp_path.iterdir())) >= 14
    assert all(folder.sample(index, 0, 0).views is not None for index in range(len(folder)))
