"""Manifests: what was written is known again, whenever the writing was cut off and whoever wrote beside it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.base import files, manifest
from mage_kit.base.files import atomic_folder, read_json, write_json, write_text
from mage_kit.base.manifest import MANIFEST_FILE, DamagedFileError, check_file, check_folder, file_digest


def flip(file: Path, bit: int) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def test_a_digest_is_that_of_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PIECE", 1000)
    for size in (0, 1, 999, 1000, 1001, 12_345):
        content = os.urandom(size)
        (tmp_path / "file").write_bytes(content)
        pieces = [content[start : start + 1000] for start in range(0, max(1, size), 1000)]
        by_hand = hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()
        assert file_digest(tmp_path / "file") == by_hand


def test_every_bit_of_a_file_counts(tmp_path: Path) -> None:
    write_json(tmp_path / "some.json", {"top1": 0.5}, listed=True)
    for bit in range(8 * (tmp_path / "some.json").stat().st_size):
        flip(tmp_path / "some.json", bit)
        with pytest.raises(DamagedFileError, match=r"some\.json: is not what was written"):
            read_json(tmp_path / "some.json")
        flip(tmp_path / "some.json", bit)
    assert read_json(tmp_path / "some.json") == {"top1": 0.5} and check_file(tmp_path / "some.json")


def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    write_json(tmp_path / "some.json", {"top1": 0.5}, listed=True)
    before = (tmp_path / MANIFEST_FILE).read_bytes()
    for bit in range(8 * len(before)):
        flip(tmp_path / MANIFEST_FILE, bit)
        try:
            same = json.loads((tmp_path / MANIFEST_FILE).read_text()) == json.loads(before)
        except ValueError:
            same = False
        if not same:  # white space may change
            with pytest.raises(DamagedFileError, match=r"manifest\.json: damaged"):
                check_file(tmp_path / "some.json")
        (tmp_path / MANIFEST_FILE).write_bytes(before)


def test_what_is_not_listed_is_taken(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text('{"a": 1}')
    assert not check_file(tmp_path / "theirs.json") and read_json(tmp_path / "theirs.json") == {"a": 1}
    write_json(tmp_path / "ours.json", {}, listed=True)
    assert not check_file(tmp_path / "theirs.json")
    with pytest.warns(manifest.FileWarning, match=r"unverified, no manifest\.json there lists theirs\.json$"):
        manifest.warn_unverified(tmp_path, "ours.json", "theirs.json", "nothing.json")


@pytest.mark.parametrize("place", ["before", "after"])
def test_cut_off_while_a_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Old and new are both sound until the new one is there for good; a third is not."""
    write_text(tmp_path / "text", "old", listed=True)
    rename = os.replace

    def cut(source: Path, target: Path) -> None:
        if Path(target).name == "text":
            if place == "after":
                rename(source, target)
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "text", "new", listed=True)
    monkeypatch.undo()
    assert (tmp_path / "text").read_text() == {"before": "old", "after": "new"}[place]
    assert check_file(tmp_path / "text")
    (tmp_path / "text").write_text("another")
    with pytest.raises(DamagedFileError, match="is not what was written"):
        check_file(tmp_path / "text")
    write_text(tmp_path / "text", "newest", listed=True)
    assert check_file(tmp_path / "text")


def _write(folder: Path, who: int) -> None:
    for number in range(10):
        write_json(folder / f"{who}-{number}.json", [who, number], listed=True)


def test_processes_that_write_at_once_are_all_listed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all(check_file(tmp_path / f"{who}-{number}.json") for who in range(4) for number in range(10))


def test_folders(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder", listed=True) as temporary:
        for name in "ab":
            (temporary / name).write_text(name)
    check_folder(tmp_path / "folder")
    (tmp_path / "folder" / "a").unlink()
    with pytest.raises(DamagedFileError, match=r"a: listed in manifest\.json, and cannot be read"):
        check_folder(tmp_path / "folder")
    with pytest.raises(DamagedFileError, match="missing, or lists nothing"):
        check_folder(tmp_path)


def test_errors_are_ours() -> None:
    assert issubclass(DamagedFileError, mk.MageKitError)
