"""PyTorch files, read without running anything in them: tensors and plain values, nothing else.

A narrow list of harmless classes that old training scripts pickled beside their weights is read as an inert stand-in;
the class itself is never imported, made or called. Anything else is refused by name.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from mage_kit.errors import MageKitError


class Inert:
    """Stands where a pickled object stood; keeps nothing of it."""

    def __init__(self, *args: object, **keywords: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


STOOD_FOR = (
    "argparse.Namespace",  # the command line of MAE's and MAGE's scripts, under "args"
    "omegaconf.dictconfig.DictConfig",
    "pathlib.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # a key of taming's "callbacks"
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",  # a learning rate or a best loss
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


def read_pickle(path: Path) -> Any:
    """Read a PyTorch file, new or old form.

    Raises:
        MageKitError: If it is damaged, or wants to run something; names what.
    """
    allowed: list[Any] = [(Inert, name) for name in STOOD_FOR]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        wanted = _wanted(path, str(error))
        if wanted:
            raise MageKitError(
                f"{path}: besides tensors it holds {', '.join(wanted)}, which loading would have to run; nothing of it "
                "was. If you trust its source, save its tensors alone: torch.save({'model': state_dict}, ...)"
            ) from None
        raise MageKitError(f"{path}: damaged, or no PyTorch checkpoint ({_first_line(error)})") from None
    except Exception as error:  # torch raises many kinds for damaged files
        raise MageKitError(f"{path}: damaged, or no PyTorch checkpoint ({_first_line(error)})") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _wanted(path: Path, message: str) -> list[str]:
    """Names of what a file would import; from torch's message where it cannot be listed (the old form)."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the old form, or damaged
        names = re.findall(r"GLOBAL ([\w.]+)", message)[:1] or _imports(path)
    return sorted(set(names) - set(STOOD_FOR))


def _imports(path: Path) -> list[str]:
    """Names that a bare pickle imports, read from its instructions without following them."""
    names, strings = [], []
    with path.open("rb") as file, contextlib.suppress(Exception):  # whatever follows the pickle may be anything
        for operation, argument, _ in pickletools.genops(file):
            if isinstance(argument, str):
                strings.append(argument)
            if operation.name == "GLOBAL":
                names.append(strings[-1].replace(" ", "."))
            elif operation.name == "STACK_GLOBAL" and len(strings) > 1:
                names.append(".".join(strings[-2:]))
    return [name for name in names if not name.startswith("torch.") and name != "collections.OrderedDict"]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0][:200] or type(error).__name__
