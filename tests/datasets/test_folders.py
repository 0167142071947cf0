"""Folders as people have them: splits, junk, links, formats that are not read; nothing is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.datasets import ImageFolder


def fill(folder: Path, *names: str) -> Path:
    """Write small pictures."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), number % 256, dtype=np.uint8)).save(folder / name)
    return folder


def opened(folder: Path, **settings: Any) -> ImageFolder:
    return ImageFolder((16, 16), 3, path=str(folder), **settings)


SPLITS = [("train", "val"), ("train", "valid", "test"), ("Training", "Validation"), ("train",)]


@pytest.mark.parametrize("splits", SPLITS)
def test_a_root_of_splits_is_refused_with_the_path_that_was_meant(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """Read as two classes, the validation images would be trained on."""
    for split in splits:
        fill(tmp_path, f"{split}/cat/0.png", f"{split}/dog/0.png")
    with pytest.raises(mk.MageKitError, match=rf"holds the splits .*; '{tmp_path}/{splits[0]}' was meant, perhaps"):
        opened(tmp_path)
    assert opened(tmp_path / splits[0]).classes == ("cat", "dog")


def test_junk_is_known_by_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "cat/0.png", "cat/._0.png", "cat/.0.png", "cat/.thumbs/0.png", "cat/@eaDir/0.png", "__MACOSX/0.png")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    fill(tmp_path, "dog/deep/er/1.png")
    data = opened(tmp_path, max_broken=0.0)
    assert data.classes == ("cat", "dog") and len(data) == 2 and [data.label(place) for place in range(2)] == [0, 1]
    reasons = {str(Path(name).relative_to(tmp_path)): reason for name, reason in data.passed_over}
    hidden = "hidden, or left by a file manager"
    expected = ("cat/._0.png", "cat/.0.png", "cat/.thumbs", "cat/@eaDir", "cat/Thumbs.db", ".DS_Store", "__MACOSX")
    assert reasons == {**dict.fromkeys(expected, hidden), "empty": "a class folder without images"}


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png", "more/2.png")
    root = fill(tmp_path / "data", "cat/0.png")
    (root / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    data = opened(root)
    names = [str(Path(data.name(place)).relative_to(root)) for place in range(len(data))]
    assert names == ["cat/0.png", "cat/linked/1.png", "cat/linked/more/2.png", "dog/1.png", "dog/more/2.png"]
    assert [reason for _, reason in data.passed_over] == ["a link to a folder above it"]


@pytest.mark.parametrize("to", ["..", "../..", "."])
def test_a_link_to_the_root_or_above_gives_no_image_twice(to: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "data", "cat/0.png", "dog/deep/1.png")
    (root / "cat" / "back").symlink_to(to, target_is_directory=True)
    (root / "dog" / "deep" / "back").symlink_to(f"../{to}", target_is_directory=True)
    data = opened(root)
    names = [str(Path(data.name(place)).relative_to(root)) for place in range(len(data))]
    assert names == ["cat/0.png", "dog/deep/1.png"]
    assert [reason for _, reason in data.passed_over] == ["a link to a folder above it"] * 2


def test_formats_that_are_not_read_count_as_broken(tmp_path: Path) -> None:
    fill(tmp_path, *(f"cat/{number}.png" for number in range(97)))
    for number in range(3):
        (tmp_path / "cat" / f"{number}.heic").write_bytes(b"heic")
    (tmp_path / "cat" / "notes.txt").write_text("no image at all")
    rule = r"3 of 100 image files cannot be read: 3 \.heic, an image of a format that is not read; more than max_broken"
    with pytest.raises(mk.MageKitError, match=rule):
        opened(tmp_path)
    data = opened(tmp_path, max_broken=0.03)
    assert len(data) == 97 and len(data.passed_over) == 4
    (tmp_path / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(mk.MageKitError, match=r"4 of 101 .*1 \.jpg, no file: a folder, a broken link"):
        opened(tmp_path, max_broken=0.03)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".tga", ".JPG", ".webp", ".bmp", ".tiff", ".ppm"])
def test_every_suffix_that_is_promised_is_read(tmp_path: Path, suffix: str) -> None:
    forms = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".JPG": "JPEG"}
    (tmp_path / "cat").mkdir()
    picture = Image.fromarray(np.full((20, 20, 3), 100, dtype=np.uint8))
    picture.save(tmp_path / "cat" / f"0{suffix}", format=forms.get(suffix) or suffix[1:].upper())
    data = opened(tmp_path)
    assert len(data) == 1 and abs(int(data.still(0).views[0].mean()) - 100) <= 1


def test_a_part_is_held_out_by_name(tmp_path: Path) -> None:
    names = [f"{label}/{number:03d}.png" for label in ("cat", "dog") for number in range(60)]
    fill(tmp_path, *names)
    whole, training, held_out = (opened(tmp_path, part=part) for part in ("all", "training", "held_out"))
    sides = [{part.name(place) for place in range(len(part))} for part in (training, held_out)]
    assert len(whole) == 120 == sum(map(len, sides)) and not sides[0] & sides[1]
    assert 6 <= len(held_out) <= 20 and held_out.classes == ("cat", "dog")
    for part in (training, held_out):
        for place in range(len(part)):
            assert part.classes[part.label(place) or 0] == Path(part.name(place)).parent.name
    fill(tmp_path, "dog/new.png")
    later = opened(tmp_path, part="held_out")
    assert sides[1] <= {later.name(place) for place in range(len(later))}, "files that come later move none"
    assert len({part.identity()["files_sha256"] for part in (whole, training, held_out)}) == 3
    assert len(opened(tmp_path, part="held_out", held_out=1.0)) == 121
    with pytest.raises(mk.MageKitError, match="part: 'held_out', holds none of the 121 images"):
        opened(tmp_path, part="held_out", held_out=0.0)
