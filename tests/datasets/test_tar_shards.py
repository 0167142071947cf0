"""Tar shards: the images of the folder, files that change or are damaged, labels, loading processes."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

import mage_kit as mk
from mage_kit.base.errors import BrokenImageError
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.datasets.tar_index import tar_index
from mage_kit.datasets.tar_samples import SampleRules
from mage_kit.images.image_files import load_image, open_image
from mage_kit.training.loader import Order, batches
from tests.datasets.test_data import encoded, made, photo
from tests.datasets.test_tar_samples import write_tar

RULES = SampleRules("first_dot", None, "cls")


def shards(folder: Path, images: int = 20, per: int = 7, scatter: bool = True) -> list[bytes]:
    """Images and labels in tar files, labels first and members far apart; returns the images' bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [encoded(photo(index), "JPEG") for index in range(images)]
    for number, start in enumerate(range(0, images, per)):
        members = [(f"set/{i:04d}.cls", str(i % 3).encode()) for i in range(start, min(start + per, images))]
        members += [(f"set/{i:04d}.jpg", contents[i]) for i in range(start, min(start + per, images))]
        members += [(f"set/{i:04d}.json", b"{}") for i in range(start, min(start + per, images))]
        if scatter:
            random.Random(number).shuffle(members)
        with tarfile.open(folder / f"shard-{number:03d}.tar", "w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return contents


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_tar_shards_give_the_images_of_the_folder(tmp_path: Path, cache: Path) -> None:
    contents = shards(tmp_path / "tars")
    data = made("tar_shards", tmp_path / "tars")
    assert len(data) == 20 and data.classes == ("0", "1", "2") and not data.passed_over
    seen = {}
    for index in range(20):
        number = int(data.name(index).rsplit("/", 1)[1].split(".")[0])
        seen[number] = index
        assert data.label(index) == number % 3
        opened = load_image(open_image(io.BytesIO(contents[number])), "x", 3)
        assert np.array_equal(np.asarray(data.image(index)), np.asarray(opened))
    assert sorted(seen) == list(range(20))
    assert data.identity() == made("tar_shards", tmp_path / "tars").identity()
    indices = list((cache / "mage_kit" / "tar_index").iterdir())
    assert len(indices) == 3, "one index a file"
    stamp = indices[0].stat().st_mtime_ns
    made("tar_shards", tmp_path / "tars")
    assert indices[0].stat().st_mtime_ns == stamp, "it was scanned again"


def test_a_changed_tar_file_is_scanned_again(tmp_path: Path, cache: Path) -> None:
    shards(tmp_path / "tars", images=5)
    before = made("tar_shards", tmp_path / "tars").identity()
    shards(tmp_path / "tars", images=6)
    after = made("tar_shards", tmp_path / "tars")
    assert len(after) == 6 and after.identity() != before


def test_damaged_tar_files(tmp_path: Path, cache: Path) -> None:
    shards(tmp_path / "tars", images=7, scatter=False)
    tar = tmp_path / "tars" / "shard-000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    index = tar_index(tar, RULES)
    assert 0 < len(index.names) < 7 and "shard-000.tar" in index.facts.passed_over[-1][0]
    with pytest.raises(
        mk.MageKitError, match=r"2 of 7 .*1 \.jpg, the tar file ends inside it; 1 shard-000.tar, damaged"
    ):
        made("tar_shards", tmp_path / "tars")
    data = made("tar_shards", tmp_path / "tars", max_broken=0.5)
    assert data.sample(0, 0, 0).views[0].shape == (3, 32, 32)
    tar.write_bytes(b"")  # the file shrinks under an open data set
    with pytest.raises(BrokenImageError, match=r"0 of .* bytes can be read"):
        data.sample(1, 0, 0)
    tar.write_bytes(b"no tar file" * 100)
    with pytest.raises(mk.MageKitError, match="must be a tar file, neither compressed nor damaged"):
        made("tar_shards", tmp_path / "tars")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(mk.MageKitError, match=r"'a.tar.gz' is compressed, which allows no access by place"):
        made("tar_shards", tmp_path / "packed")


def test_a_damaged_header_is_listed(tmp_path: Path, cache: Path) -> None:
    """One flipped bit: Python's reader ends there without a word."""
    shards(tmp_path / "tars", images=7, scatter=False)
    tar = tmp_path / "tars" / "shard-000.tar"
    with tarfile.open(tar) as opened:
        place = opened.getmembers()[9].offset
    content = bytearray(tar.read_bytes())
    content[place + 3] ^= 1
    tar.write_bytes(bytes(content))
    index = tar_index(tar, RULES)
    assert len(index.names) == 2
    assert any("its headers break off at byte" in reason for _, reason in index.facts.passed_over)
    with pytest.raises(mk.MageKitError, match=r"5 of 7 image files .*shard-000.tar, damaged after 9 .*5 or so images"):
        made("tar_shards", tmp_path / "tars")
    indices = next((cache / "mage_kit" / "tar_index").iterdir())
    indices.write_bytes(indices.read_bytes()[:200])
    assert len(tar_index(tar, RULES).names) == 2, "a damaged index is made again"


def test_odd_labels_are_none(tmp_path: Path, cache: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for number, label in enumerate([b"1", b"999999999999", b"9" * 30, b"cat", b"-3"]):
            for name, content in ((f"{number}.jpg", encoded(photo(), "JPEG")), (f"{number}.cls", label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    data = made("tar_shards", tmp_path / "odd.tar")
    assert [data.label(index) for index in range(5)] == [1, None, None, None, None] and data.classes == ("0", "1")


@pytest.mark.parametrize(("extension", "content", "label"), [
    ("cls", b"7" + b" " * 100 + b"\n", 7), ("cls", b"7" + b" " * 200, None),
    ("cls", b"7" + b" " * (1 << 20) + b"x", None),
    ("json", b'{"id": 7}' + b" " * 1000, 7), ("json", b'{"id": 7}' + b" " * (1 << 20) + b"}", None),
])  # fmt: skip
def test_of_a_label_no_part_is_taken_for_the_whole(
    extension: str, content: bytes, label: int | None, tmp_path: Path, cache: Path
) -> None:
    members = [("0.jpg", encoded(photo(), "JPEG")), (f"0.{extension}", content)]
    file = write_tar(tmp_path / "a.tar", [*members, ("1.jpg", members[0][1]), (f"1.{extension}", b'{"id": 1}')])
    data = made("tar_shards", file, label_from="cls" if extension == "cls" else "json:id")
    assert data.label(0) == label


def test_a_picture_of_any_size_is_not_read(tmp_path: Path, cache: Path) -> None:
    """Ten gigabytes in each loading process, whatever they hold."""
    file = write_tar(tmp_path / "a.tar", [("0.jpg", encoded(photo(), "JPEG"))])
    info = tarfile.TarInfo("1.jpg")
    info.size = 10 << 30
    with file.open("r+b") as raw:
        raw.seek(-(-(512 + len(encoded(photo(), "JPEG"))) // 512) * 512)
        raw.write(info.tobuf(tarfile.GNU_FORMAT))
        raw.truncate(raw.tell() + info.size)  # a hole: nothing is written
    data = made("tar_shards", file)
    data.still(0)
    with pytest.raises(BrokenImageError, match=r"1\.jpg', .*10,737,418,240 bytes, must be at most 357,913,940"):
        data.still(1)


def test_tar_shards_in_loading_processes(tmp_path: Path, cache: Path) -> None:
    shards(tmp_path / "tars", images=40)
    data = made("tar_shards", tmp_path / "tars")
    data.sample(0, 0, 0)  # a handle is open before the processes are forked
    order = Order(40, 8, 0)
    alone, helped = (list(batches(data, order, 0, 10, 0, workers)) for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert np.array_equal(first.images_TCHW, second.images_TCHW)


def test_packed_names() -> None:
    names = ["a", "", "Ünïcode/ä.jpg", os.fsdecode(b"\xff\xfe.png"), "z" * 300]
    packed = PackedNames(names)
    assert list(packed) == names and packed[-1] == names[-1] and len(packed) == 5
    assert list(PackedNames.of_arrays(packed.arrays("n"), "n")) == names  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="index: 5"):
        packed[5]
    assert list(PackedNames([])) == []
