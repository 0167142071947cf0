"""Models, classifiers and tokenizers from wherever they lie: this program's folders, or published checkpoint files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch
from pydantic import ValidationError
from torch import nn

from mage_kit.base.devices import check_device
from mage_kit.base.errors import MageKitError, json_path
from mage_kit.base.files import read_json, read_tensors, tensor_shapes
from mage_kit.base.manifest import FileWarning, start_check, warn_unverified
from mage_kit.base.plugins import consent, load_plugins
from mage_kit.base.signature import NoWires
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.recipes import Parts, Recipe, at_size, build
from mage_kit.recipes.answers import kind_of
from mage_kit.recipes.build import build_fitting, require_memory
from mage_kit.recipes.places import at
from mage_kit.recipes.resizing import check_size
from mage_kit.store.folders import (
    EMA_FILE,
    MODEL_FILE,
    RECIPE_FILE,
    TOKENIZER_CARD,
    TOKENIZER_FILE,
    check_shapes,
    load_state,
    tokenizer_folder,
)
from mage_kit.tokenizers import TOKENIZERS, Tokenizer

if TYPE_CHECKING:
    from mage_kit.legacy import Imported, Options


class ImportOptions(TypedDict, total=False):
    """What a published checkpoint does not say of itself; see `mage_kit.legacy.Options`.

    layout: its layout, where its tensors' names do not tell. weights: key under which the weights stand, where there
    are several; of a run folder, "ema" for the running mean, "raw" for themselves. prefix: what stands before the names
    of the weights, where a known layout stands below several. vqgan: file with the tokenizer, where it holds none.
    image_size: height and width in pixels, where they should be others than the weights were trained at: learned
    positions are resized (bicubic); of folders of this program too.
    encoder_heads, decoder_heads, padding, ignore: as in `Options`.
    """

    layout: str
    weights: str
    prefix: str
    vqgan: str | os.PathLike[str]
    image_size: tuple[int, int]
    encoder_heads: int
    decoder_heads: int
    padding: str
    ignore: tuple[str, ...]


def load(
    source: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    plugins: bool = False,
    **options: Unpack[ImportOptions],
) -> Mage:
    """Read a model: a folder of this program, or a published MAGE checkpoint.

    Args:
        source: Model folder, run folder, or checkpoint: a file, an index of several, a diffusers folder.
        device: Where the model goes: "cpu", "cuda", "cuda:N".
        plugins: Whether modules that a folder names may run where it, or the current folder, alone has them. Such code
            can do whatever you can: say so of folders that you trust.
        options: For checkpoint files; see `ImportOptions`.

    Returns:
        The model in evaluation mode.

    Raises:
        MageKitError: If it is none of these, weights and recipe do not belong together, or there is no such device.
    """
    place = check_device(device)  # before anything is read
    with consent(plugins):
        model = load_any(Path(source), options)
    if not isinstance(model, Mage):
        raise MageKitError(f"{source}: holds a {_what(model)}")
    return model.to(place).eval()


def load_classifier(
    source: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    plugins: bool = False,
    **options: Unpack[ImportOptions],
) -> MageClassifier:
    """Read a classifier: a folder of this program, or a published fine-tuned checkpoint. See `load`."""
    place = check_device(device)
    with consent(plugins):
        model = load_any(Path(source), options)
    if not isinstance(model, MageClassifier):
        raise MageKitError(f"{source}: holds a {_what(model)}")
    return model.to(place).eval()


def load_tokenizer(
    source: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    plugins: bool = False,
    **options: Unpack[ImportOptions],
) -> Tokenizer:
    """Read a tokenizer: a tokenizer, run or model folder of this program, or a published checkpoint. See `load`."""
    place = check_device(device)
    with consent(plugins):
        return _load_tokenizer(Path(source), options).to(place).eval()


def _load_tokenizer(place: Path, options: ImportOptions) -> Tokenizer:
    if place.is_dir() and tokenizer_folder(place) is not None:
        size = _size_and_no_more(place, options)
        return _tokenizer_in(place, size)
    if _is_published(place) and "vqgan" not in options:
        from mage_kit.legacy import import_tokenizer

        part = _tell(
            import_tokenizer(
                place,
                layout=options.get("layout"),
                weights=options.get("weights"),
                prefix=options.get("prefix"),
                options=_file_options(options),
            ),
            options,
        )
    else:
        part = load_any(place, options)
    return part if isinstance(part, Tokenizer) else part.tokenizer


def _tokenizer_in(folder: Path, image_size: tuple[int, int] | None = None) -> Tokenizer:
    inner = tokenizer_folder(folder)
    assert inner is not None
    card = read_json(inner / TOKENIZER_CARD)
    plugins, form = card.get("plugins", {}), card.get("tokenizer")
    if not isinstance(plugins, dict) or not isinstance(form, dict):
        raise MageKitError(f"{inner / TOKENIZER_CARD}: damaged, must state a tokenizer")
    problems = load_plugins(list(plugins), inner, {name: str(home) for name, home in plugins.items()})
    if problems:
        raise MageKitError(f"{inner / TOKENIZER_CARD}: {'; '.join(problems)}")
    try:
        config = TOKENIZERS.parse({**form, **({} if image_size is None else {"image_size": list(image_size)})})
    except ValidationError as error:
        item = error.errors()[0]
        place = json_path(("tokenizer", *item["loc"]))
        raise MageKitError(f"{inner / TOKENIZER_CARD}: {place}: {item['msg']}") from None
    file = inner / TOKENIZER_FILE
    check = start_check(file)
    with at("$.tokenizer", config):
        with torch.device("meta"):  # no memory is taken for what does not fit
            _check_fit(TOKENIZERS.build(config, NoWires()), file, check)
        tokenizer = TOKENIZERS.build(config, NoWires())
    load_state(tokenizer, read_tensors(file, check), str(file))
    warn_unverified(inner, TOKENIZER_CARD, TOKENIZER_FILE)
    return tokenizer.requires_grad_(False)


def _check_fit(form: nn.Module, file: Path, check: Callable[[], bool]) -> None:
    """Compare shapes alone; that the file is damaged says more than that it does not fit."""
    try:
        check_shapes(form, tensor_shapes(file), str(file))
    except MageKitError:
        check()
        raise


def load_any(source: Path, options: ImportOptions | None = None) -> Mage | MageClassifier | Tokenizer:
    """Read whatever a place holds. See `load`."""
    options = options or {}
    if _is_published(source):
        from mage_kit.legacy import import_checkpoint

        result = import_checkpoint(
            source,
            layout=options.get("layout"),
            weights=options.get("weights"),
            prefix=options.get("prefix"),
            vqgan=options.get("vqgan"),
            options=_file_options(options),
        )
        return _tell(result, options)
    mean = options.get("weights") == "ema"
    size = _size_and_no_more(source, options, ("raw", "ema"))
    if not source.exists():
        raise MageKitError(f"'{source}': there is no such file or folder")
    if not (source / RECIPE_FILE).is_file():
        if tokenizer_folder(source) == source:
            return _tokenizer_in(source, size)
        raise MageKitError(f"folder: '{source}', holds no {RECIPE_FILE}, so is no model or run folder")
    recipe = Recipe.load(source / RECIPE_FILE)
    if kind_of(recipe) == "tokenizer" and tokenizer_folder(source) is not None:
        return _tokenizer_in(source, size)
    if not (source / MODEL_FILE).is_file():
        raise MageKitError(
            f"folder: '{source}', holds no {MODEL_FILE}: training has not ended (mage-kit train ... --resume)"
        )
    if mean and not (source / EMA_FILE).is_file():
        raise MageKitError(f"weights: ema, but '{source}' holds no {EMA_FILE}: its recipe has training.ema null")
    file = source / (EMA_FILE if mean else MODEL_FILE)
    check = start_check(file)  # beside the building
    with torch.device("meta"):  # no memory is taken for what does not fit
        form = build(recipe).model
    if form is None:
        raise MageKitError(f"folder: '{source}', its recipe is of a tokenizer alone, and beside it lies a {MODEL_FILE}")
    _check_fit(form, file, check)
    require_memory(Parts(form.tokenizer, form), recipe.name)
    model = build_fitting(recipe).model
    assert model is not None
    load_state(model, read_tensors(file, check), str(file))
    warn_unverified(source, RECIPE_FILE, file.name)
    return model if size is None else at_size(model, size)


def _is_published(place: Path) -> bool:
    """Whether a place holds another program's weights; published layouts are imported only where it may."""
    if not place.is_dir():
        return place.is_file()
    if (place / RECIPE_FILE).is_file() or tokenizer_folder(place) is not None:
        return False
    from mage_kit.legacy import is_weight_folder

    return is_weight_folder(place)


def _tell(result: Imported, options: ImportOptions) -> Mage | MageClassifier | Tokenizer:
    """Return what was imported; a warning says what a choice leaves out that nobody made."""
    for line in (*result.container_notes, *(() if "prefix" in options else result.prefix_notes)):
        warnings.warn(line, FileWarning, stacklevel=4)
    return result.part


def _file_options(options: ImportOptions) -> Options:
    from mage_kit.legacy import Options

    values = {name: value for name, value in options.items() if name not in ("layout", "weights", "prefix", "vqgan")}
    return Options(**values)  # type: ignore[arg-type]  # held by ImportOptions


def _size_and_no_more(folder: Path, options: ImportOptions, weights: tuple[str, ...] = ()) -> tuple[int, int] | None:
    """A folder of this program says everything of itself; it may only be wanted at another image size."""
    others = [name for name in options if name not in ("image_size", "weights")]
    if weights and options.get("weights", weights[0]) not in weights:
        raise MageKitError(f"weights: '{options['weights']}', must be {' or '.join(weights)}")
    others += ["weights"] if "weights" in options and not weights else []
    if others:
        raise MageKitError(f"{', '.join(others)}: given, but '{folder}' is no checkpoint file")
    return check_size(options.get("image_size"))


def _what(model: Mage | MageClassifier | Tokenizer) -> str:
    if isinstance(model, Mage):
        return "model: mage_kit.load reads it, mage-kit eval knn and its like measure it"
    if isinstance(model, MageClassifier):
        return "classifier: mage_kit.load_classifier reads it, mage-kit eval accuracy measures it"
    return "tokenizer: mage_kit.load_tokenizer reads it, mage-kit eval audit measures it"
