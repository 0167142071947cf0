"""Files that hold more than a picture: pages, frames, bands that are no colours; the same at every door."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from mage_kit.base.errors import BrokenImageError
from mage_kit.base.manifest import FileWarning
from mage_kit.datasets.stills import still_batches
from mage_kit.editing.inputs import to_pixels
from mage_kit.images.image_files import load_image, open_image
from mage_kit.training.loader import Order, batches
from tests.datasets.test_data import made
from tests.images.test_deep_pictures import RAMP, grey, tiff

BANDS = np.stack([np.full((8, 8), value, dtype=np.uint8) for value in (200, 100, 50, 0)], axis=-1)


def read(content: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(load_image(open_image(io.BytesIO(content), "it"), "it", channels))


def saved(form: str, pages: int = 2, **options: Any) -> bytes:
    first, *others = [Image.new("RGB", (20, 20), (40 * (n + 1),) * 3) for n in range(pages)]
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=others, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("tags", "bands"), [({}, 4), ({"t338": (0,)}, 4), ({"t338": (2, 0)}, 5)])
def test_bands_that_are_neither_colours_nor_alpha(tags: dict[str, Any], bands: int) -> None:
    """A near-infrared band taken for alpha makes black places white, and no word said."""
    array = np.concatenate([BANDS, BANDS], axis=-1)[..., :bands]
    with pytest.raises(BrokenImageError, match=rf"{bands} bands, of which 3 are colours; beyond the colours only one"):
        read(tiff(array, **tags))


@pytest.mark.parametrize("kind", [1, 2, 999])
def test_alpha_that_is_declared_is_alpha(kind: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tiff(BANDS, t338=(kind,)))[0, 0].tolist() == [255, 255, 255]
        assert read(tiff(BANDS[..., :3]))[0, 0].tolist() == [200, 100, 50]


def test_four_bands_of_jpeg_2000() -> None:
    content = grey(BANDS, "JPEG2000")
    assert b"cdef" in content and read(content, 4).shape == (8, 8, 4)
    with pytest.raises(BrokenImageError, match="4 bands, of which none is declared as alpha"):
        read(content.replace(b"cdef", b"free"), 4)


def test_pages_are_refused() -> None:
    with pytest.raises(BrokenImageError, match=r"several pages, must be one: save each page as a file of its own"):
        read(saved("TIFF", 3))
    assert read(saved("TIFF", 1))[0, 0].tolist() == [40] * 3


def test_pages_are_looked_at_up_to_the_second_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may have as many as it has room for, each of some hundred bytes."""
    looks: list[int] = []
    seek = TiffImageFile.seek

    def count(self: TiffImageFile, frame: int) -> None:
        looks.append(frame)
        seek(self, frame)

    monkeypatch.setattr(TiffImageFile, "seek", count)
    with pytest.raises(BrokenImageError, match="several pages, must be one"):
        read(saved("TIFF", 40))
    assert looks == [0, 1]
    looks.clear()
    small = Image.new("RGB", (4, 4), (40,) * 3)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "TIFF", save_all=True, append_images=[small] * 120)
    with pytest.raises(BrokenImageError, match="over 100 pages, must be one"):
        read(buffer.getvalue())
    assert max(looks) == 100


def test_a_small_copy_beside_the_picture_is_no_page() -> None:
    """As cameras and viewers store them: tag 254 says that the page is a reduced one."""
    first, small = Image.new("RGB", (20, 20), (40,) * 3), Image.new("RGB", (4, 4), (40,) * 3)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[small])
    assert read(buffer.getvalue()).shape == (20, 20, 3)


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_of_animations_the_first_frame_is_taken_and_told(form: str, options: dict[str, Any]) -> None:
    with pytest.warns(FileWarning, match="'it', animated: of such files the first frame is taken"):
        pixels = read(saved(form, **options))
    assert pixels[0, 0].tolist() == [40] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(saved(form, 1, **options))


def test_a_data_set_says_each_kind_once(tmp_path: Path) -> None:
    """Whoever loads: this process, or others, of whose remarks the first process hears with the batch."""
    for number in range(4):
        (tmp_path / f"{number}.gif").write_bytes(saved("GIF"))
        (tmp_path / f"{number}.png").write_bytes(grey(RAMP))
    for workers in (0, 2):
        data = made("image_folder", tmp_path)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            remarks = [each for batch in batches(data, Order(8, 8, 0), 0, 1, 0, workers) for each in batch.remarks]
            list(still_batches(data, [range(8)], workers))
        assert len(said) == 2 and all(str(each.message).startswith(f"data: '{tmp_path}/") for each in said)
        assert {kind for kind, _ in remarks} == {"frames", "levels"}
    twelve = made("image_folder", tmp_path, levels=4096)
    assert twelve.identity()["levels"] == 4096 and "levels" not in data.identity()


def test_an_edit_reads_as_a_data_set_does() -> None:
    with pytest.warns(FileWarning, match="the first frame"):
        assert to_pixels(Image.open(io.BytesIO(saved("GIF"))), 3)[:, 0, 0].tolist() == [40] * 3
    with pytest.raises(BrokenImageError, match="several pages"):
        to_pixels(Image.open(io.BytesIO(saved("TIFF", 3))), 3)
    with pytest.raises(BrokenImageError, match="nobody says what is white"):
        to_pixels(Image.fromarray(RAMP.astype(np.float32)), 3)
    with pytest.warns(FileWarning, match="set data.levels to 4096"):
        to_pixels(Image.fromarray(RAMP), 1)
