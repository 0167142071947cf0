"""Folders on disk: models, classifiers, tokenizers. Written whole or not at all, never over something else unasked."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError, misfits
from mage_kit.base.files import atomic_folder, read_json, read_tensors, write_json, write_tensors, write_text
from mage_kit.base.manifest import MANIFEST_FILE, FileWarning
from mage_kit.base.plugins import plugin_folders
from mage_kit.base.processes import is_first, sharded_like, whole
from mage_kit.layers.linear_layers import is_quantized
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.recipes.recipe import Recipe
from mage_kit.tokenizers import TOKENIZERS, Tokenizer

if TYPE_CHECKING:
    from mage_kit.legacy import Origin

RECIPE_FILE = "recipe.json"
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"  # the running mean of a run's weights, where there is one
TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_FILE = "tokenizer.safetensors"
TOKENIZER_CARD = "tokenizer.json"
CARD_FILE = "card.json"  # where converted weights came from
LEGACY_FILE = "legacy.safetensors"  # what of them nothing here reads
_WRITTEN = {
    RECIPE_FILE, MODEL_FILE, EMA_FILE, TOKENIZER_FILE, TOKENIZER_CARD, CARD_FILE, LEGACY_FILE, MANIFEST_FILE
}  # fmt: skip


def save(
    model: Mage | MageClassifier,
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    overwrite: bool = False,
    origin: Origin | None = None,
) -> Path:
    """Write a model folder.

    Args:
        model: The model or classifier, tokenizer included.
        folder: Created; must not exist, unless empty or `overwrite`.
        recipe: Written beside the weights; None writes the model's own, as for one composed in Python.
        overwrite: Replace an existing model folder.
        origin: Of converted weights.

    Raises:
        MageKitError: If the folder holds something, a part's class is not registered, or layers are quantized.
    """
    if not isinstance(model, Mage | MageClassifier):
        raise MageKitError(
            f"model: {type(model).__name__}, must be a Mage or MageClassifier (tokenizers: save_tokenizer)"
        )
    if is_quantized(model):
        raise MageKitError("model: its linear layers are quantized, which no folder holds; save the one before that")
    target = Path(folder)
    text = (recipe or Recipe.of(model, _name_of(target))).to_json()
    check_replaceable(target, overwrite)
    with atomic_folder(target, listed=True) as temporary:  # all or none: a mixed pair loads as something else
        write_tensors(temporary / MODEL_FILE, state_of(model))
        write_text(temporary / RECIPE_FILE, text)
        _write_origin(temporary, origin)
    return target


def save_tokenizer(
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    fingerprint: str | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write a tokenizer folder, which a recipe's `tokenizer.weights` may name.

    Args:
        tokenizer: A trained one.
        folder: Created; must not exist, unless empty or `overwrite`.
        overwrite: Replace an existing tokenizer folder.
        fingerprint: Of its training.
        origin: Of converted weights.

    Raises:
        MageKitError: If the folder holds something, or the tokenizer's class is not registered.
    """
    target = Path(folder)
    card = {
        "fingerprint": fingerprint,
        "plugins": plugin_folders([name for name in [type(tokenizer).__module__] if not name.startswith("mage_kit.")]),
        "tokenizer": TOKENIZERS.describe(tokenizer, weights=None),
    }
    check_replaceable(target, overwrite)
    with atomic_folder(target, listed=True) as temporary:
        write_tensors(temporary / TOKENIZER_FILE, state_of(tokenizer))
        write_json(temporary / TOKENIZER_CARD, card)
        _write_origin(temporary, origin)
    return target


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, str]:
    """Return what tells a trained tokenizer from others: its kind, and a SHA-256 of its weights."""
    return {"kind": TOKENIZERS.entry_of(tokenizer).kind, "weights_sha256": weights_digest(tokenizer)}


def weights_digest(module: nn.Module) -> str:
    """Return a SHA-256 of a module's tensors, without those that training alone needs."""
    digest = hashlib.sha256()
    lasting = without_passing(module, module.state_dict())  # not state_of, which gives other processes nothing
    for name, value in sorted(lasting.items()):
        for part in value if isinstance(value, tuple) else (value,):  # a quantized layer's weight and bias
            _add(digest, name, part)
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):  # of a quantized layer: its dtype, no bias
        digest.update(f"{name}\0{value}\0".encode())
        return
    tensor = (value.dequantize() if value.is_quantized else value).detach().cpu().contiguous()
    digest.update(f"{name}\0{tuple(tensor.shape)}\0{value.dtype}\0".encode())
    digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raise MageKitError unless a folder may be written: new, empty, or one of `save`'s and `overwrite` given."""
    if folder.exists() and not folder.is_dir():
        raise MageKitError(f"folder: '{folder}', is a file")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and not overwrite:
        raise MageKitError(
            f"folder: '{folder}', is not empty; nothing is overwritten unless asked (--overwrite, or overwrite=True)"
        )
    foreign = sorted(names - _WRITTEN)
    if foreign:
        raise MageKitError(f"folder: '{folder}', holds {foreign[0]} too; only bare model folders are overwritten")


def require_folder(place: Path) -> None:
    """Raise MageKitError if a place is a file: commands that read recipes want a folder."""
    if place.is_file():
        raise MageKitError(f"'{place}' is a file, must be a folder; make one of a checkpoint with mage-kit convert")


def tokenizer_folder(folder: Path) -> Path | None:
    """Return the folder that holds a tokenizer: this one, or the one in a run's folder; None if neither does."""
    return next((place for place in (folder / TOKENIZER_FOLDER, folder) if (place / TOKENIZER_CARD).is_file()), None)


def _name_of(folder: Path) -> str:
    return re.sub(r"[^\w .-]", "_", folder.resolve().name).lstrip(" .-") or "model"


def _write_origin(folder: Path, origin: Origin | None) -> None:
    if origin is None:
        return
    write_json(folder / CARD_FILE, origin.card)
    if origin.unused:
        write_tensors(folder / LEGACY_FILE, origin.unused)


def read_origin(folder: Path) -> Origin | None:
    """Return where a folder's weights came from; None for those trained here.

    Raises:
        MageKitError: If what was kept of the source is damaged or missing.
    """
    from mage_kit.legacy import Origin

    if not (folder / CARD_FILE).is_file():
        return None
    card = read_json(folder / CARD_FILE)
    tensors = read_tensors(folder / LEGACY_FILE) if (folder / LEGACY_FILE).is_file() else {}
    try:
        shapes = {item["name"]: tuple(item["shape"]) for item in card["unused"]}
        whole = isinstance(card["layout"], str) and isinstance(card["dtype"], str)
    except (KeyError, TypeError):
        whole, shapes = False, {}
    if not whole or shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise MageKitError(
            f"{folder}: {CARD_FILE} and {LEGACY_FILE} do not belong together, or are damaged; convert the checkpoint "
            "again, or remove both to go without what they hold"
        )
    return Origin(card, tensors)


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's tensors in full, contiguous and on the CPU, ready for safetensors.

    Of a module sharded over processes, all of them take part, and the first one alone gets the tensors.
    """
    full = ((name, whole(tensor)) for name, tensor in module.state_dict().items())
    return {name: tensor.cpu().contiguous() for name, tensor in full if is_first()}


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a module; every tensor must be there, with its shape, and none be left over.

    Floating numbers of another width are taken, and a warning says so.

    Raises:
        MageKitError: Naming up to five tensors of each kind of misfit, or the first that is of another type, or holds
            weights that are not finite.
    """
    check_shapes(module, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    own = module.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in own}
    _check_numbers(module, tensors, source)
    module.load_state_dict({name: sharded_like(tensor, own[name]) for name, tensor in tensors.items()})


def check_shapes(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compare a module, on the meta device or any other, with the tensors that are to fill it.

    Raises:
        MageKitError: Naming up to five tensors of each kind of misfit.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    lines = misfits(
        own, {name: shape for name, shape in shapes.items() if name in own or not _is_passing(module, name)}
    )
    if lines:
        raise MageKitError("\n".join([f"{source}: does not fit the recipe beside it", *lines]))


def _check_numbers(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    own, weights = module.state_dict(), {name for name, _ in module.named_parameters()}
    others = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype != own[name].dtype}
    for name, dtype in others.items():
        if not (dtype.is_floating_point and own[name].dtype.is_floating_point):
            raise MageKitError(f"{source}: {name}: {_short(dtype)}, must be {_short(own[name].dtype)}")
    for name, tensor in tensors.items():
        if name in weights and not bool(torch.isfinite(tensor).all()):
            raise MageKitError(f"{source}: {name}: holds numbers that are not finite")
    if others:
        words = f"{source}: {len(others)} tensors are stored in {', '.join(sorted(set(map(_short, others.values()))))}"
        warnings.warn(f"{words}, and taken into the model's own type", FileWarning, stacklevel=3)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def without_passing(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a module's tensors without those that training alone needs."""
    return {name: tensor for name, tensor in tensors.items() if not _is_passing(module, name)}


def _is_passing(module: nn.Module, name: str) -> bool:
    """True for state that training alone needs, which older folders hold beside the weights."""
    path, _, leaf = name.rpartition(".")
    try:
        return leaf in getattr(module.get_submodule(path), "passing", ())
    except AttributeError:
        return False
