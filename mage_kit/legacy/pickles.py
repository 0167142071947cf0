"""PyTorch files, read without running anything in them: tensors and plain values, nothing else.

A narrow list of harmless classes that old training scripts pickled beside their weights is read as an inert stand-in;
the class itself is never imported, made or called. Anything else is refused by name.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from mage_kit.base.errors import MageKitError


class Inert:
    """Stands where a pickled object stood; keeps nothing of it."""

    def __init__(self, *args: object, **keywords: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


STOOD_FOR = (
    "argparse.Namespace",  # the command line of MAE's and MAGE's scripts, under "args"
    "pathlib.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # a key of taming's "callbacks"
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",  # a learning rate or a best loss
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)

_CHUNK = 1 << 24
_DENSE = 8  # times its size, which weights never unpack to
_HARMLESS = ("torch.", "collections.OrderedDict", "_codecs.encode")  # what every checkpoint imports


def read_pickle(path: Path) -> Any:
    """Read a PyTorch file, new or old form.

    Raises:
        MageKitError: If it is damaged, or wants to run something; names what.
    """
    stand_ins: list[Any] = [(Inert, name) for name in STOOD_FOR]
    try:
        lazy = _is_zip(path) and _is_stored(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except pickle.UnpicklingError as error:
        names = _import_names(path, str(error))
        if names:
            arrays = any(name.startswith("numpy") for name in names)
            hint = "; save arrays as tensors (torch.from_numpy)" if arrays else ""
            raise MageKitError(
                f"{path}: besides tensors it holds {', '.join(names)}, which loading would have to run; nothing of it "
                f"was. If you trust its source, save its tensors alone: torch.save({{'model': state_dict}}, ...){hint}"
            ) from None
        reason = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
        text = reason[1].strip() if reason else _first_line(error)
        raise MageKitError(
            f"{path}: damaged, or not written by torch.save with its usual pickle protocol ({text})"
        ) from None
    except MageKitError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        raise MageKitError(f"{path}: damaged, or no PyTorch checkpoint ({_first_line(error)})") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _is_stored(path: Path) -> bool:
    """Compare every record of a zip with its checksum; return False if one is compressed, which no mapping can read."""
    with zipfile.ZipFile(path) as archive:
        size, unpacked = path.stat().st_size, sum(record.file_size for record in archive.infolist())
        if unpacked > _DENSE * size + _CHUNK:  # weights hardly compress: nothing of it is unpacked
            raise MageKitError(f"{path}: {size:,} bytes that unpack to {unpacked:,}, must be weights")
        for record in archive.infolist():
            if record.CRC:  # 0 where the writer was told not to count
                with archive.open(record) as file:
                    while file.read(_CHUNK):
                        pass
        return all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())


def _import_names(path: Path, message: str) -> list[str]:
    """Names of what a file would import; from torch's message where its pickle cannot be followed."""
    names = re.findall(r"GLOBAL ([\w.]+)", message)[:1] + _imports(path)
    return sorted(name for name in set(names) if not name.startswith(_HARMLESS) and name not in STOOD_FOR)


def _imports(path: Path) -> list[str]:
    """Names that a pickle imports, read from its instructions without following them."""
    with contextlib.suppress(Exception):  # what is damaged has no names
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return _globals(io.BytesIO(archive.read(inner)))
        with path.open("rb") as file:
            return _globals(file)
    return []


def _globals(file: IO[bytes]) -> list[str]:
    names: list[str] = []
    strings: list[str] = []  # pushed so far; a look into the memo pushes again
    memo: dict[int, str] = {}
    last: str | None = None
    with contextlib.suppress(Exception):  # behind an old file's pickles come its numbers
        while True:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL" and len(strings) > 1:
                    names.append(".".join(strings[-2:]))
                elif operation.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                    memo[len(memo) if argument is None else int(argument)] = last or ""
                    continue
                looked_up = operation.name in ("GET", "BINGET", "LONG_BINGET")
                last = memo.get(int(str(argument))) if looked_up else argument if isinstance(argument, str) else None
                if last:
                    strings.append(last)
    return names


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0][:200] or type(error).__name__
