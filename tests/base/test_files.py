"""What a file system refuses is said with the path: no room, no rights, no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

import mage_kit as mk
from mage_kit.base.files import atomic, locked, write_json, write_tensors
from mage_kit.base.progress import Reporter
from tests import build
from tests.training.test_training import small


def fail(code: int) -> Any:
    def call(*words: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))  # as a write does: without a path

    return call


def test_no_room_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    for write in (lambda: write_json(tmp_path / "x.json", {}), lambda: write_tensors(tmp_path / "x.safetensors", {})):
        with pytest.raises(OSError, match=r"cannot be written: No space left on device: '.*/x\.") as caught:
            write()
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(
        OSError, match=r"No space left on device: '.*model/model.safetensors|No space left.*'"
    ) as caught:
        mk.save(build.mage(), tmp_path / "model")
    assert not [*tmp_path.iterdir()], "nothing half-written stays"


def test_an_error_of_another_file_keeps_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/elsewhere'"), atomic(tmp_path / "x"):
        (tmp_path / "elsewhere").read_bytes()


def test_no_rights_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: Any, dir: Path, **options: Any) -> NoReturn:  # tempfile's own keyword
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{dir}/.x.abc")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written: Permission denied: '.*/x\.json'"):
        write_json(tmp_path / "x.json", {})


def test_no_locks_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))
    with (
        pytest.raises(OSError, match=r"its file system takes no locks \(No locks available\).*: '.*"),
        locked(tmp_path, "out"),
    ):
        pass
    with pytest.raises(OSError, match=rf"takes no locks .*: '{tmp_path}/run'"):
        mk.train(small(), tmp_path / "run", reporter=Reporter.silent())
