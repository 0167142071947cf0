"""What a folder's files held when they were written: a digest of each, in manifest.json beside them.

A listed file is read only as it was written: a flipped bit, or weights beside another recipe, are refused. What no
manifest lists, as in folders of others, is taken, and called unverified.

A file's digest is the SHA-256 of the SHA-256s of its pieces, which several threads compute at once. A file that is
replaced is listed with the old and the new digest until it is there: killed in between, either is sound.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mage_kit.base.errors import MageKitError

MANIFEST_FILE = "manifest.json"
_PIECE = 1 << 24  # bytes
_THREADS = min(8, max(1, (os.cpu_count() or 1) - 1))  # one is left to what goes on beside
_RULE = "is not what was written (its SHA-256 differs from that in manifest.json): damaged, or changed by hand"


class DamagedFileError(MageKitError):
    """A file that is not what was written."""


class FileWarning(UserWarning):
    """What to know of files that were read: no manifest lists them, or their numbers were of another type."""


def file_digest(path: Path) -> str:
    """Return the SHA-256, as hexadecimal digits, of the SHA-256s of a file's pieces of 16 MiB."""
    pieces = range(0, max(1, path.stat().st_size), _PIECE)
    with path.open("rb") as file:

        def digest(start: int) -> bytes:
            return hashlib.sha256(os.pread(file.fileno(), _PIECE, start)).digest()

        if len(pieces) == 1:
            return hashlib.sha256(digest(0)).hexdigest()
        with ThreadPoolExecutor(_THREADS) as pool:
            return hashlib.sha256(b"".join(pool.map(digest, pieces))).hexdigest()


def check_file(path: Path) -> bool:
    """Compare a file with what was written; return whether a manifest lists it.

    Raises:
        DamagedFileError: If it differs, or the manifest is damaged.
    """
    path = path.resolve()
    digests = _read(path.parent).get(path.name)
    if digests is None:
        return False
    try:
        own = file_digest(path)
    except OSError as error:
        raise DamagedFileError(f"{path}: listed in {MANIFEST_FILE}, and cannot be read ({error.strerror})") from None
    if own not in digests:
        raise DamagedFileError(f"{path}: {_RULE}; remove {MANIFEST_FILE} to go on unverified")
    return True


def start_check(path: Path) -> Callable[[], bool]:
    """Begin `check_file` in a thread beside what comes next; the result waits for its end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(check_file, path)
    pool.shutdown(wait=False)
    return future.result


def warn_unverified(folder: Path, *names: str) -> None:
    """Say in a line which of the files that a folder was loaded from no manifest lists."""
    listed = _read(folder.resolve())
    if unknown := [name for name in names if (folder / name).is_file() and name not in listed]:
        words = f"{folder}: unverified, no {MANIFEST_FILE} there lists {', '.join(unknown)}"
        warnings.warn(words, FileWarning, stacklevel=2)


def check_folder(folder: Path) -> None:
    """Compare every listed file of a folder with what was written.

    Raises:
        DamagedFileError: If there is no manifest, or a file is missing or differs.
    """
    names = _read(folder)
    if not names:
        raise DamagedFileError(f"{folder / MANIFEST_FILE}: missing, or lists nothing")
    for name in names:
        check_file(folder / name)


@contextlib.contextmanager
def replaced(path: Path, temporary: Path) -> Iterator[None]:
    """List a file that takes the place of another, before it does so and for good after it."""
    own = file_digest(temporary)
    with _changing(path.parent) as files:
        files[path.name] = [*files.get(path.name, [])[:1], own]
    yield
    with _changing(path.parent) as files:
        files[path.name] = [own]


def list_files(*paths: Path) -> None:
    """List files as they are, all of one folder."""
    digests = {path.name: [file_digest(path)] for path in paths}
    with _changing(paths[0].parent) as files:
        files |= digests


def unlist(path: Path) -> None:
    """Forget a file that is about to grow."""
    if path.name in _read(path.parent):
        with _changing(path.parent) as files:
            files.pop(path.name, None)


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[dict[str, list[str]]]:
    """Give a manifest's contents to be changed, one process at a time; then write it whole or not at all."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folder
            fcntl.flock(lock, fcntl.LOCK_EX)
        files = _read(folder)
        yield files
        handle, name = tempfile.mkstemp(prefix=f".{MANIFEST_FILE}.", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"files": files, "sha256": _seal(files)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, folder / MANIFEST_FILE)
    finally:
        os.close(lock)


def _read(folder: Path) -> dict[str, list[str]]:
    """Return the digests that files of a folder may have, by name; nothing where there is no manifest."""
    file = folder / MANIFEST_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        files: dict[str, list[str]] = content["files"]
        sound = content["sha256"] == _seal(files)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedFileError(f"{file}: damaged; remove it to go on unverified")
    return files


def _seal(files: dict[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
