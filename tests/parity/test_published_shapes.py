"""Every tensor of the published files is accounted for, by name and shape, in both directions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.legacy import Options, export_part, recognise
from tests.parity.recording import DATA

RECIPES = Path(__file__).parents[2] / "recipes"
Shapes = dict[str, tuple[int, ...]]


def published() -> dict[str, tuple[str, Shapes]]:
    """Name of each published file, the layout that it should be recognised as, and its shapes."""
    files: dict[str, tuple[str, dict[str, Any]]] = {}
    official = json.loads((DATA / "official_shapes.json").read_text())
    for name, kind in (("mage_vit_base", "mage"), ("mage_vit_large", "mage"), ("vqgan", "vqgan")):
        files[name] = (kind, official[name])
    for kind in ("taming", "llamagen", "maskgit_jax"):
        listed = json.loads((DATA / kind / "published_shapes.json").read_text())
        ignored = listed.pop("ignored_weightless", {})
        for name, shapes in listed.items():
            files[f"{kind} {name}"] = (kind, {**shapes, **ignored})
    return {name: (kind, {key: tuple(size) for key, size in shapes.items()}) for name, (kind, shapes) in files.items()}


FILES = published()


def fitted(name: str) -> Any:
    kind, shapes = FILES[name]
    layout = recognise(shapes)
    assert layout is not None and layout.kind == kind
    return layout.fit({key: torch.empty(size, device="meta") for key, size in shapes.items()}, Options())


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_is_loaded_or_unused_with_a_reason(name: str) -> None:
    _, shapes = FILES[name]
    fit = fitted(name)
    loaded, unused = {pair.theirs for pair in fit.pairs}, {item.name: item for item in fit.unused}
    assert loaded | unused.keys() == shapes.keys()
    assert all(item.reason for item in fit.unused)
    total = sum(math.prod(size) for size in shapes.values())
    assert fit.values + sum(item.values for item in fit.unused) == total
    state = fit.module.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == fit.values, "a value is loaded twice, or made up"
    for part in loaded & unused.keys():
        assert 0 < unused[part].values < math.prod(shapes[part]), "used in part"
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: tuple(tensor.shape) for name, tensor in fit.state.items()
    }


def test_published_counts() -> None:
    """200,990,061 values in the ViT-B file; 23.8M in the tokenizer's encoder, 30.5M in its decoder."""
    counts = {name: sum(math.prod(size) for size in shapes.values()) for name, (_, shapes) in FILES.items()}
    assert counts["mage_vit_base"] == 200_990_061
    assert counts["mage_vit_large"] == 464_407_405
    tokenizer = fitted("vqgan").module
    assert round(sum(p.numel() for p in tokenizer.encoder.parameters()) / 1e6, 1) == 23.8
    assert round(sum(p.numel() for p in tokenizer.decoder.parameters()) / 1e6, 1) == 30.5
    million = {"taming codes_1024": 72.1, "taming codes_16384": 76.1, "llamagen vq_ds16": 71.9}
    for name, size in million.items():
        assert round(sum(p.numel() for p in fitted(name).module.parameters()) / 1e6, 1) == size, name


@pytest.mark.parametrize(("name", "sizes"), [("mage_vit_base", (12, 12, 16)), ("mage_vit_large", (24, 16, 16))])
def test_heads_follow_from_the_published_widths(name: str, sizes: tuple[int, int, int]) -> None:
    model = fitted(name).module
    assert (model.encoder.depth, model.encoder.heads, model.decoder.heads) == sizes
    assert model.tokenizer.image_size == (256, 256) and model.spec.grid == mk.TokenGrid(16, 16)


@pytest.mark.parametrize(("recipe", "name"), [("mage_vitb", "mage_vit_base"), ("mage_c_vitl", "mage_vit_large")])
def test_models_of_our_recipes_export_to_exactly_the_published_names(recipe: str, name: str) -> None:
    """And what nothing trained here stands for is named; a contrastive head has no place there."""
    with torch.device("meta"):
        model = mk.Recipe.load(RECIPES / f"{recipe}.json").build_model()
        made = export_part(model)
    _, shapes = FILES[name]
    assert {key: tuple(tensor.shape) for key, tensor in made.tensors.items()} == shapes
    for key, tensor in made.tensors.items():
        assert tensor.dtype == (torch.int64 if key == "token_emb.position_ids" else torch.float32), key
    unused = {item.name for item in fitted(name).unused}
    assert {text.split(" ")[0] for text in made.filled} == unused
    assert all(key.startswith("losses.") for key in made.left_out) and bool(made.left_out) == ("mage_c" in recipe)
