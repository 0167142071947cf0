"""Files written whole or not at all, and the errors of damaged ones."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mage_kit.base import manifest
from mage_kit.base.errors import MageKitError

LOCK_FILE = ".lock"  # in a run's folder, while it is held
_locks: set[TextIO] = set()  # held by this process
BROKEN_FILE = "broken.json"  # images that a run or a cache passed over


@contextlib.contextmanager
def atomic(path: Path, listed: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and takes the name, else it goes.

    What a link points to is written, and the link stays.

    Args:
        path: The file.
        listed: Whether the manifest of its folder lists it from then on.
    """
    path = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        with manifest.replaced(path, temporary) if listed else contextlib.nullcontext():
            os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, name):
            raise
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, listed: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes the name, else it goes with all it holds.

    What a link points to is written, and the link stays.

    Args:
        path: The folder.
        listed: Whether it gets a manifest of the files in it.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if listed:
            manifest.list_files(*(file for file in sorted(temporary.iterdir()) if file.is_file()))
        os.chmod(temporary, 0o755)
        take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def take_place(folder: Path, path: Path) -> None:
    """Give a whole folder the name of another, which goes."""
    path = path.resolve()
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        os.replace(path, aside)  # the old one stays whole until the new one has its name
    os.replace(folder, path)
    shutil.rmtree(aside, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Find out whether a file or folder can be made at a place, before work that would be lost is done.

    Raises:
        MageKitError: If the folder it goes into, or the nearest one above that there is, takes no files.
    """
    place = path.resolve().parent
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise MageKitError(f"'{path}': cannot be written, '{place}' takes no files ({error.strerror})") from None


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder while something is written there bit by bit; it is free again when the process ends, however.

    Args:
        folder: It must be there.
        what: Of the folder, for the error.

    Raises:
        MageKitError: If another process holds it; names that process.
        OSError: If the file system takes no locks, or no file there.
    """
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise MageKitError(f"{what}: '{folder}', is in use by process {file.read().strip() or 'unknown'}") from None
        except OSError as error:
            words = f"its file system takes no locks ({error.strerror}), choose a folder on another"
            raise OSError(error.errno, words, str(folder)) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        _locks.add(file)
        try:
            yield
        finally:
            _locks.discard(file)


def _close_locks() -> None:
    """In a forked child: a lock lasts as long as any process has its file open, and loading workers outlive a kill."""
    for file in _locks:
        file.close()
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks)


def drop_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder: `.NAME.xxxxxxxx` of `atomic`."""
    for path in folder.glob(".*.????????"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, listed: bool = False) -> None:
    """Write a text file whole or not at all; see `atomic`."""
    with atomic(path, listed) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MageKitError: If the file is missing, damaged, not as its folder's manifest lists it, or holds something else;
            names it.
    """
    manifest.check_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MageKitError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise MageKitError(f"{path}: must hold a JSON object")
    return value


def write_json(path: Path, value: object, listed: bool = False) -> None:
    """Write a JSON file whole or not at all; see `atomic`."""
    write_text(path, json.dumps(value, indent=2) + "\n", listed)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, listed: bool = False
) -> None:
    """Write a safetensors file whole or not at all; tensors that share memory are written each by itself."""
    with atomic(path, listed) as temporary:
        try:
            save_file(_apart(tensors), temporary, metadata=metadata)
        except SafetensorError as error:
            full = "No space left" in str(error) or "File too large" in str(error)
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, "no room to write it" if full else str(error), str(path)) from None


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of what lies in memory that another tensor lies in too; the format has no room for tied weights."""
    places: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return apart


def read_tensors(path: Path, check: Callable[[], bool] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.
        check: Its comparison with the manifest, where that was begun before; None to begin it here.

    Raises:
        MageKitError: If it is missing, damaged, or not as its folder's manifest lists it.
    """
    check = check or manifest.start_check(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise MageKitError(f"{path}: cannot be read ({error})") from None
    finally:
        check()


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors by name; the tensors themselves are not read.

    Raises:
        MageKitError: If it is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise MageKitError(f"{path}: cannot be read ({error})") from None
