"""A model folder: recipe.json, model.safetensors. Written whole or not at all, never over something else unasked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from mage_kit.errors import MageKitError
from mage_kit.files import atomic_folder, read_tensors, write_tensors, write_text
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
    text = (recipe or Recipe.of(model, name=re.sub(r"[^\w .-]", "_", target.resolve().name) or "model")).to_json()
    held = {path.name for path in target.iterdir()} if target.is_dir() else {target.name} if target.exists() else set()
    if held and not overwrite:
        raise MageKitError(f"folder: '{target}', is not empty; nothing is overwritten unless asked (overwrite=True)")
    if not held <= {MODEL_FILE, RECIPE_FILE}:
        raise MageKitError(f"folder: '{target}', is no bare model folder; only those are overwritten")
    with atomic_folder(target) as temporary:  # both files or none: a mixed pair would load as something else
        write_tensors(temporary / MODEL_FILE, state_of(model))
        write_text(temporary / RECIPE_FILE, text)
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


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
