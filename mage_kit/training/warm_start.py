"""Weights that a model begins with: the encoder of another one, or all that both have; each tensor accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mage_kit.base.errors import MageKitError, RecipeError, misfits
from mage_kit.base.grid import TokenGrid
from mage_kit.encoders import ENCODERS
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes import Forms, grid_of_form
from mage_kit.recipes.assemble import part_forms
from mage_kit.recipes.resizing import POSITIONS, resize_words, resized_state
from mage_kit.store.folders import load_state, without_passing
from mage_kit.tokenizers import Tokenizer
from mage_kit.tokenizers.streams import tokenizer_of
from mage_kit.training.folder import learned_classes
from mage_kit.training.weight_folders import WeightFolder

_FREE = frozenset({"dropout", "label_dropout"})  # keywords under which the same weights may serve


def fill_model(
    model: Mage | MageClassifier, source: WeightFolder, name: str, *, whole: bool, classes: Sequence[str] = ()
) -> list[str]:
    """Give a model weights of another one; learned positions are resized to the model's grid.

    Args:
        model: With its tokenizer; changed in place.
        source: Folder of a masked model; of a model of the same kind, where all is taken.
        name: Of the recipe, for errors.
        whole: Take all parts that both models have of one kind, not encoder and embedding alone.
        classes: Names of the classes that a classifier is to tell apart, by number.

    Returns:
        Lines to tell: which tensors were taken and which were not, and of positions that were resized.

    Raises:
        RecipeError: If there is no such model, its encoder or another part of the same kind is of another form, it
            knows another tokenizer, or a tensor that both have is of another shape.
    """
    forms = _forms(model, source, name, whole)
    grids = _check_tokens(model, source, forms, name)
    parts = ["embedding.", "encoder.", *(_shared_parts(model, source, name, classes) if whole else ())]
    tensors = {key: value for key, value in source.tensors.items() if key.startswith(tuple(parts))}
    if isinstance(model.encoder.norm, nn.Identity):  # of a classifier, whose features come before it
        tensors = {key: value for key, value in tensors.items() if not key.startswith("encoder.norm.")}
    resizes = grids[0] != grids[1] and any(key in POSITIONS for key in tensors)
    if resizes:
        tensors = resized_state(tensors, *grids)
    _fill(model, tensors, str(source.folder), name)
    lines = [f"pretrained {'model' if whole else 'encoder'}: {resize_words(*grids)}"] if resizes else []
    others = [key for key in source.tensors if _top(key) not in ("tokenizer", "targets") and key not in tensors]
    return [_account(model, tensors, others if whole else [], source.folder), *lines]


def _shared_parts(
    model: Mage | MageClassifier, source: WeightFolder, name: str, classes: Sequence[str]
) -> Iterator[str]:
    """Yield where the parts stand that both models have of one kind; tensors of one shape may mean different things.

    Raises:
        RecipeError: If a part of the same kind has other keywords.
    """
    if isinstance(model, MageClassifier):
        if not classes or learned_classes(source.folder) == tuple(classes):
            yield "head."
        return
    mine, theirs = part_forms(model), source.part_forms
    lines = []
    for part in mine.keys() & theirs.keys():
        form, other = mine[part], theirs[part]
        if form and other and form["kind"] == other["kind"]:
            lines += [] if part.startswith("losses.") else _differing(part, form, other)
            yield f"{part}."
    if lines:
        raise RecipeError(sorted(lines), name)


def _forms(model: Mage | MageClassifier, source: WeightFolder, name: str, whole: bool) -> Forms:
    """The forms of a folder that is one of the model's kind, or of a masked model where its encoder is wanted."""
    folder = source.folder
    try:
        forms, _ = source.forms, source.tensors
    except MageKitError as error:
        hint = "" if folder.exists() else " (train it first, or name one with --set pretrained.weights=DIR)"
        raise RecipeError([f"$.pretrained.weights: {error}{hint}"], name) from None
    kind = "classifier" if whole and isinstance(model, MageClassifier) else "mage"
    if forms.kind != kind:
        what = "a classifier" if kind == "classifier" else "a masked model"
        raise RecipeError([f"$.pretrained.weights: '{folder}', must be the folder of {what}"], name)
    return forms


def _check_tokens(
    model: Mage | MageClassifier, source: WeightFolder, forms: Forms, name: str
) -> tuple[TokenGrid, TokenGrid]:
    """Make sure that encoders are of one form and know the same tokens; return both grids, the source's first."""
    assert forms.encoder is not None and forms.embedding is not None
    lines = _differing("encoder", ENCODERS.describe(model.encoder), forms.encoder)
    lines += _differing("embedding", model.embedding.config.model_dump(mode="json"), forms.embedding)
    stream, folder = model.input, source.folder
    if forms.input != stream:
        rule = f"must be one whose encoder sees '{stream}' as this one does"
        lines.append(f"$.pretrained.weights: '{folder}', its encoder sees the stream '{forms.input}', {rule}")
    owner = tokenizer_of(stream, list(model.targets))
    place = "tokenizer" if owner is None else f"targets.{owner}"
    tokenizer = model.tokenizer if owner is None else model.targets[owner]
    assert isinstance(tokenizer, Tokenizer)
    if not lines and not _same(tokenizer, source.part(place)):
        path = place if owner is None else f"model.{place}"
        lines = [f"$.{path} and $.pretrained.weights: the pretrained model knows the tokens of another tokenizer"]
    if lines:
        raise RecipeError(lines, name)
    return grid_of_form(forms.tokenizer if owner is None else forms.targets[owner]), model.spec.grid


def _fill(model: Mage | MageClassifier, tensors: Mapping[str, Tensor], folder: str, name: str) -> None:
    """Fill in what the model has too; encoder and embedding whole."""
    for part in ("embedding", "encoder"):
        before = f"{part}."
        own = {key[len(before) :]: value for key, value in tensors.items() if key.startswith(before)}
        load_state(getattr(model, part), own, folder)
    state = model.state_dict()
    shared = {key: value for key, value in tensors.items() if key in state}
    lines = misfits(*({key: tuple(each[key].shape) for key in shared} for each in (state, shared)))
    if lines:
        raise RecipeError([f"$.pretrained.weights: '{folder}',{'; '.join(lines)}"], name)
    model.load_state_dict(shared, strict=False)


def _account(model: Mage | MageClassifier, tensors: Mapping[str, Tensor], others: list[str], folder: Path) -> str:
    """Account for every tensor of a model and of the folder: what came from there, what is new, what has no place."""
    own = [key for key in model.state_dict() if _top(key) not in ("tokenizer", "targets")]
    old, fresh = [key for key in own if key in tensors], [key for key in own if key not in tensors]
    rest = f"; from the seed begin {_counts(fresh)}" if fresh else ""
    others = [*others, *(key for key in tensors if key not in model.state_dict())]
    rest += f"; left out is {_counts(others)}" if others else ""
    return f"pretrained: {_counts(old)} of {folder}{rest}"


def _counts(names: list[str]) -> str:
    counts = Counter(_top(name) for name in names)
    return ", ".join(f"{part} ({count} tensors)" for part, count in counts.items())


def _top(name: str) -> str:
    return name.partition(".")[0]


def _same(tokenizer: Tokenizer, tensors: dict[str, Tensor]) -> bool:
    """Whether a tokenizer has these weights, bit for bit; what training alone needs does not count."""
    mine = without_passing(tokenizer, tokenizer.state_dict())
    theirs = without_passing(tokenizer, tensors)
    return mine.keys() == theirs.keys() and all(
        mine[key].shape == theirs[key].shape and bool((mine[key].cpu() == theirs[key]).all()) for key in mine
    )


def _differing(part: str, form: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    names = [name for name in form if name not in _FREE and form[name] != theirs.get(name)]
    return [f"$.model.{part}.{name}: {form[name]}, the pretrained one has {theirs.get(name)}" for name in names]
