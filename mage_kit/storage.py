"""A model folder: recipe.json, model.safetensors. Written whole or not at all, never over something else unasked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mage_kit.errors import MageKitError
from mage_kit.model import Mage
from mage_kit.recipe import Recipe

RECIPE_FILE = "recipe.json"
MODEL_FILE = "model.safetensors"
TOKENIZER_FOLDER = "tokenizer"


def save(model: Mage, folder: str | os.PathLike[str], recipe: Recipe | None = None, overwrite: bool = False) -> Path:
    """Write a model folder.

    Args:
        model: The model, tokenizer included.
        folder: Created; must not exist, unless empty or `overwrite`.
        recipe: Written beside the weights; None writes the model's own, as for one composed in Python.
        overwrite: Replace an existing model folder.

    Raises:
        MageKitError: If the folder holds something, or a part's class is not registered.
    """
    target = Path(folder)
    text = (recipe or Recipe.of(model, name=target.name)).to_json()
    if target.exists() and not overwrite and any(target.iterdir()):
        raise MageKitError(f"folder: '{target}', is not empty; nothing is overwritten unless asked (overwrite=True)")
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(target / MODEL_FILE, state_of(model))
    write_text(target / RECIPE_FILE, text)
    return target


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Mage:
    """Read a model folder or a run folder, in evaluation mode.

    Args:
        folder: Written by `save` or by training.
        device: Where the model goes.

    Raises:
        MageKitError: If it is no model folder, or weights and recipe do not belong together.
    """
    source = Path(folder)
    if not (source / RECIPE_FILE).is_file():
        raise MageKitError(f"folder: '{source}', holds no {RECIPE_FILE}, so is no model or run folder")
    recipe = Recipe.load(source / RECIPE_FILE)
    if not (source / MODEL_FILE).is_file():
        raise MageKitError(f"folder: '{source}', holds no {MODEL_FILE}: training has not ended; go on with --resume")
    model = recipe.build_model()
    load_state(model, read_tensors(source / MODEL_FILE), str(source / MODEL_FILE))
    return model.to(device).eval()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors, contiguous and on the CPU, ready for safetensors."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a module; every tensor must be there, with its shape, and none be left over.

    Raises:
        MageKitError: Naming up to five tensors of each kind of misfit.
    """
    wanted = module.state_dict()
    shapes = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    misfits = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "of another shape": shapes,
    }
    lines = [
        f"  {len(names)} {kind}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
        for kind, names in misfits.items()
        if names
    ]
    if lines:
        raise MageKitError("\n".join([f"{source}: does not fit the recipe beside it", *lines]))
    module.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        MageKitError: If it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise MageKitError(f"{path}: cannot be read ({error})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """Read the text fields of a safetensors file; the file's errors as in `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise MageKitError(f"{path}: cannot be read ({error})") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and takes the name, else it goes."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes the name, else it goes with all it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
