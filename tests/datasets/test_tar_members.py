"""Members that are no plain files, and shards that are no plain tar files: each is read or accounted for."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.base.progress import Reporter
from mage_kit.datasets.tar_members import LINK, SPARSE, read_members
from mage_kit.training.broken_images import BrokenImages
from tests.datasets.test_tar_samples import PIXELS, _own_cache, counted, labels, opened, shade, write_tar

__all__ = ["_own_cache"]  # used by pytest


def add(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    tar.addfile(info, io.BytesIO(content))


def test_links_lead_to_members_and_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PIXELS[250])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x/early.png", tarfile.SYMTYPE, "../y/0.png")
        add(tar, "./y/0.png", content=PIXELS[40])
        add(tar, "y/0.cls", content=b"1")
        add(tar, "x/hard.png", tarfile.LNKTYPE, "y/0.png")
        add(tar, "x/hard.cls", tarfile.LNKTYPE, "./y/0.cls")
        add(tar, "x/twice.png", tarfile.SYMTYPE, "early.png")
        add(tar, "z/out.png", tarfile.SYMTYPE, str(secret))
        add(tar, "z/up.png", tarfile.SYMTYPE, "../../secret.png")
        add(tar, "z/loop.png", tarfile.SYMTYPE, "loop.png")
        add(tar, "z/gone.png", tarfile.LNKTYPE, "nowhere.png")
    with pytest.raises(mk.MageKitError, match=rf"4 of 8 image files cannot be read: 4 \.png, {LINK}"):
        opened(tmp_path / "a.tar")
    data = opened(tmp_path / "a.tar", max_broken=0.5)
    names = [data.name(place).rpartition("a.tar/")[2] for place in range(len(data))]
    assert names == ["x/early.png", "./y/0.png", "x/hard.png", "x/twice.png"]
    assert [shade(data, place) for place in range(4)] == [40] * 4
    assert labels(data) == [None, "1", "1", None]
    assert [reason for _, reason in data.passed_over] == [LINK] * 4 and counted(data) == 10


def test_members_of_other_kinds_are_accounted_for(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "whole"}) as tar:
        add(tar, "x", tarfile.DIRTYPE)
        add(tar, "x/" + "long" * 40 + "ü.png", content=PIXELS[10])
        add(tar, "x/pipe.png", tarfile.FIFOTYPE)
        add(tar, "x/device", tarfile.CHRTYPE)
        add(tar, "x/inner.tar", content=b"tar")
        add(tar, "x/notes.md", content=b"words")
        add(tar, "x/._0.png", content=b"fork")
        add(tar, "__MACOSX/0.png", content=b"fork")
        add(tar, "x/1.heic", content=b"heic")
        add(tar, "x/" + "long" * 40 + "ü.png", content=PIXELS[20])
    with pytest.raises(
        mk.MageKitError, match=r"3 of 4 image files .*an archive inside the tar file, which is not opened"
    ):
        opened(tmp_path / "a.tar")
    data = opened(tmp_path / "a.tar", max_broken=0.75)
    assert len(data) == 1 and shade(data, 0) == 10 and counted(data) == 10 and "folders: 1" in data.summary
    reasons = {name.rpartition("/")[2]: reason for name, reason in data.passed_over}
    assert reasons["pipe.png"] == reasons["device"] != reasons["notes.md"] == "no image, by its suffix"
    assert reasons["._0.png"] == "hidden, or left by a file manager"
    assert reasons["1.heic"] == "an image of a format that is not read"


def test_sparse_members_are_not_read_where_they_do_not_lie(tmp_path: Path) -> None:
    holes = tmp_path / "holes.png"
    with holes.open("wb") as file:
        file.write(PIXELS[10])
        file.truncate(1 << 20)
    (tmp_path / "0.png").write_bytes(PIXELS[10])
    command = ["tar", "--sparse", "-C", str(tmp_path), "-cf", str(tmp_path / "a.tar"), "holes.png", "0.png"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no GNU tar here")
    members = read_members(tmp_path / "a.tar")
    assert members.passed_over == [("holes.png", SPARSE)] and [member.name for member in members.files] == ["0.png"]
    with pytest.raises(mk.MageKitError, match=r"1 of 2 image files cannot be read: 1 \.png, a sparse member"):
        opened(tmp_path / "a.tar")


def test_the_same_name_twice_is_no_second_sample(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", [("0.png", PIXELS[10]), ("0.PNG", PIXELS[20]), ("1.png", PIXELS[30])])
    with pytest.raises(mk.MageKitError, match=r"1 of 3 .*\.png, the key and extension of another member"):
        opened(file)
    assert [shade(opened(file, max_broken=0.4), place) for place in (0, 1)] == [10, 30]


def test_shards_in_sub_folders_in_the_order_of_their_paths(tmp_path: Path) -> None:
    root = tmp_path / "tars"
    for number, name in enumerate(("b.tar", "a/1.tar", "a/0.TAR", ".hidden.tar", "__MACOSX/c.tar", "a/b/c.tar")):
        write_tar(root / name, [(f"{number}.png", PIXELS[10 * number])])
    (root / "index.json").write_text("{}")
    (root / "a" / "again").symlink_to(root)
    data = opened(root)
    assert [shade(data, place) for place in range(4)] == [20, 10, 50, 0]
    reasons = {str(Path(name).relative_to(root)): reason for name, reason in data.passed_over}
    hidden = "hidden, or left by a file manager"
    assert reasons == {
        ".hidden.tar": hidden, "__MACOSX": hidden, "index.json": "no tar file, by its suffix",
        "a/again": "a link to a folder above it",
    }  # fmt: skip
    before = data.identity()
    (root / "a" / "1.tar").rename(root / "a" / "2.tar")
    assert opened(root).identity() != before
    (root / "a" / "more.tar.gz").write_bytes(b"packed")
    with pytest.raises(mk.MageKitError, match=r"'a/more\.tar\.gz' is compressed, which allows no access by place"):
        opened(root)


def test_shards_that_hold_no_picture_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tar").write_bytes(b"")
    with pytest.raises(mk.MageKitError, match=r"a\.tar', must be a tar file, neither compressed nor damaged .*empty"):
        opened(tmp_path / "empty")
    write_tar(
        tmp_path / "nested" / "a.tar", [("inner.tar", write_tar(tmp_path / "i.tar", [("0.png", b"")]).read_bytes())]
    )
    with pytest.raises(
        mk.MageKitError,
        match=r"no image in its tar files \(1\): an archive inside the tar file, which is not opened: 1",
    ):
        opened(tmp_path / "nested")
    with tarfile.open(tmp_path / "nothing.tar", "w"):
        pass
    with pytest.raises(mk.MageKitError, match=r"no image in its tar files \(1\): no member at all"):
        opened(tmp_path / "nothing.tar")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tgz").write_bytes(b"x")
    with pytest.raises(mk.MageKitError, match=r"'a\.tgz' is compressed"):
        opened(tmp_path / "packed" / "a.tgz")


def test_what_tar_files_hold_is_told_before_training(tmp_path: Path) -> None:
    """And what loading processes know of single images, when the batch's images are settled."""
    file = write_tar(tmp_path / "a.tar", [("0.png", PIXELS[10]), ("0.cls", "1"), ("0.json", "{}")])
    data, lines = opened(file), list[str]()
    reporter = Reporter.silent()
    reporter.say = lines.append  # type: ignore[method-assign]  # what it says is looked at
    broken = BrokenImages(data, tmp_path, reporter)
    assert lines == ["data: members of the tar files (1): 3, as labels (.cls): 1; other parts (.json): 1; pictures: 1"]
    broken.remark([("levels", "dark.png"), ("levels", "darker.png")])
    with pytest.warns(FileWarning, match="data: dark.png") as warned:
        broken.settle()
    broken.remark([("levels", "darker.png")])
    broken.settle()
    assert len(warned) == 1
