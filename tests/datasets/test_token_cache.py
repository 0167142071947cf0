"""Token caches: the ids of live tokenization, resumable, by many processes, refused where they do not fit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mage_kit as mk
from mage_kit.base.draws import derive
from mage_kit.base.manifest import list_files
from mage_kit.datasets.token_store import CACHE_FILE, read_cache_card, shard_file
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.loader import Order, batches
from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import train
from mage_kit.training.weight_folders import WeightFolder, fill_tokenizer
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small

FLIPS = "data.augment.flip=0.5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.2"), tmp_path_factory.mktemp("runs") / "trained")


@pytest.fixture
def recipe(trained: Path) -> mk.Recipe:
    return small(f'tokenizer.weights="{trained}"', "training.precision=float32", FLIPS)


@pytest.fixture
def cache(recipe: mk.Recipe, tmp_path: Path) -> Path:
    return tokenize(recipe, tmp_path / "cache", crops=3, mirrored=True, shard=500)


def test_cached_ids_are_those_of_live_tokenization(recipe: mk.Recipe, cache: Path) -> None:
    card = read_cache_card(cache)
    assert (card.crops, card.mirrored, card.files, card.images) == (3, 2, 4, 1797)
    tensors = load_file(shard_file(cache, 1))
    assert tensors["tokens"].dtype == torch.int16 and tensors["tokens"].shape == (500, 3, 2, 16)
    dataset, tokenizer = recipe.build_dataset(), recipe.build_tokenizer()
    source = WeightFolder(Path(recipe.tokenizer.get("weights")))
    fill_tokenizer(tokenizer, recipe.tokenizer.model_dump(mode="json"), source, recipe.name)
    dataset.augment = dataset.augment.model_copy(update={"views": 3, "flip": 0.0})
    for place in (0, 7, 499):
        sample = dataset.sample(500 + place, 0, derive(recipe.seed, "tokenize"))
        views = torch.from_numpy(np.stack(sample.views)).float() / 255
        live = torch.stack([tokenizer.encode(views), tokenizer.encode(views.flip(-1))], dim=1)
        assert torch.equal(live, tensors["tokens"][place].long())
        assert int(tensors["labels"][place]) == sample.label and int(tensors["index"][place]) == 500 + place
    assert not torch.equal(tensors["tokens"][:, 0], tensors["tokens"][:, 1]), "crops differ"
    assert not torch.equal(tensors["tokens"][:, :, 0], tensors["tokens"][:, :, 1]), "mirrored ones differ"


def test_training_from_a_cache(recipe: mk.Recipe, cache: Path, tmp_path: Path) -> None:
    """Two views are two crops of an image; labels and evaluation images come through."""
    contrast = [{"kind": "masked_cross_entropy", "weight": 1.0}, {"kind": "info_nce", "weight": 0.1, "hidden": 8}]
    data = {"kind": "digits", "augment": _augment(recipe, views=2)}
    whole = recipe.changed("model", losses=contrast).extended(data=data)
    cached = on_tokens(whole, cache)
    dataset = cached.build_dataset()
    sample = dataset.sample(5, 3, 9)
    ids = load_file(shard_file(cache, 0))["tokens"][5].flatten(0, 1).numpy()
    places = [[int(k) for k in np.flatnonzero((ids == view["tokens"]).all(axis=1))] for view in sample.views]
    assert all(places) and {k // 2 for k in places[0]} != {k // 2 for k in places[1]}
    assert sample.label == dataset.label(5) == dataset.still(5).label
    (batch,) = batches(dataset, Order(len(dataset), 128, 0), 2, 3, 0, 2)
    assert batch.content["tokens"].shape == (256, 16) and batch.content["tokens"].dtype == torch.int16
    train(cached, tmp_path / "run")
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["loss"] < records[0]["loss"] and records[-1]["step"] == 28
    assert mk.generate(mk.load(tmp_path / "run"), 2).images_BCHW.shape == (2, 1, 32, 32)


def _augment(recipe: mk.Recipe, **changes: object) -> dict[str, object]:
    assert recipe.data is not None
    return {**recipe.data.model_dump(mode="json")["augment"], **changes}


def test_a_cache_is_taken_up_where_it_was_left(
    recipe: mk.Recipe, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in cache.glob("tokens-*")}
    shard_file(cache, 2).unlink()
    (cache / ".tokens-00002.safetensors.abcdefgh").write_bytes(b"torn")
    with pytest.raises(mk.MageKitError, match="1 of 4 token files are missing"):
        on_tokens(recipe, cache).build_dataset()
    stamp = shard_file(cache, 1).stat().st_mtime_ns
    tokenize(recipe, cache, crops=3, mirrored=True)
    assert {path.name: path.read_bytes() for path in cache.glob("tokens-*")} == before
    assert shard_file(cache, 1).stat().st_mtime_ns == stamp and not list(cache.glob(".tokens*"))


@pytest.mark.slow
def test_two_processes_write_the_same_cache(recipe: mk.Recipe, cache: Path, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    out = tmp_path / "both"
    command = [sys.executable, "-m", "mage_kit.cli", "tokenize", str(path), "--out", str(out), "--crops", "3", "--flip"]
    done = subprocess.run([*command, "--processes", "2", "--workers", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--tokens") == 1
    made_of, wanted_of = read_cache_card(out).fingerprint(), read_cache_card(cache).fingerprint()
    assert made_of.pop("layout") != wanted_of.pop("layout") and made_of == wanted_of, "other files, the same tokens"
    made, wanted = ({}, {})
    for folder, into in ((out, made), (cache, wanted)):
        parts = [load_file(shard_file(folder, number)) for number in range(read_cache_card(folder).files)]
        into.update({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_two_processes_train_from_a_cache(recipe: mk.Recipe, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(path), "--out", str(tmp_path / "run")]
    command += ["--tokens", str(cache), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run", "model")[-1]["step"] == 28


def test_broken_images_of_an_earlier_start_are_listed_and_counted(recipe: mk.Recipe, tmp_path: Path) -> None:
    """Each token file says what was broken among its images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    dataset = recipe.build_dataset()
    for index in range(20):
        dataset.image(index).save(photos / f"{index:02d}.png")
    for index in (3, 17):
        (photos / f"{index:02d}.png").write_bytes(b"no image")
    data = {"kind": "image_folder", "path": str(photos), "augment": _augment(recipe), "max_broken": 0.2}
    folder = recipe.extended(data=data)
    cache = tokenize(folder, tmp_path / "cache", shard=10)
    shard_file(cache, 1).unlink()
    (cache / "broken.json").unlink()
    tokenize(folder, cache)
    listed = json.loads((cache / "broken.json").read_text())["broken"]
    assert sorted(Path(name).name for name in listed) == ["03.png", "17.png"]
    assert len(on_tokens(folder, cache).build_dataset()) == 18
    strict = recipe.extended(data={**data, "max_broken": 0.05})
    with pytest.raises(mk.MageKitError, match="must not be exceeded"):
        tokenize(strict, tmp_path / "strict")


def test_a_damaged_id_is_told_and_not_trained_on(recipe: mk.Recipe, cache: Path) -> None:
    file = shard_file(cache, 0)
    tensors = load_file(file)
    tensors["tokens"][4, 0, 0, 0] = 32
    with safe_open(file, framework="pt") as reader:
        notes = reader.metadata()
    save_file(tensors, file, notes)
    dataset = on_tokens(recipe, cache).build_dataset()
    with pytest.raises(mk.MageKitError, match="damaged, its tokens are not what was written"):
        dataset.sample(4, 0, 0)


@pytest.mark.parametrize("name", ["index", "labels"])
def test_a_changed_label_or_place_is_told(recipe: mk.Recipe, cache: Path, name: str) -> None:
    file = shard_file(cache, 1)
    tensors = load_file(file)
    tensors[name][3] ^= 1
    with safe_open(file, framework="pt") as reader:
        notes = reader.metadata()
    save_file(tensors, file, notes)
    with pytest.raises(mk.RecipeError, match="its index and labels are not what was written"):
        on_tokens(recipe, cache).build_dataset()


def test_a_stale_cache_is_refused_for_each_of_its_parts(
    recipe: mk.Recipe, cache: Path, trained: Path, tmp_path: Path
) -> None:
    """Another tokenizer, another transform, other images: each is named, and nothing is left behind."""
    other = train(small("training.epochs=0.2", "tokenizer_training.lr=0.005"), tmp_path / "other")
    weights = {**recipe.tokenizer.model_dump(mode="json"), "weights": str(other)}
    with pytest.raises(mk.RecipeError, match=r"not made from this recipe\ntokenizer: weights_sha256 is") as caught:
        train(on_tokens(recipe.extended(tokenizer=weights), cache), tmp_path / "run")
    assert "transform:" not in str(caught.value) and "source:" not in str(caught.value)
    moved = recipe.extended(data={"kind": "digits", "augment": _augment(recipe, area=[0.3, 1.0])})
    with pytest.raises(
        mk.RecipeError, match=r"transform: area is \[0.65, 1.0\] in the cache, \[0.3, 1.0\] here"
    ) as caught:
        train(on_tokens(moved, cache), tmp_path / "run")
    assert "source:" not in str(caught.value)
    file = tmp_path / "digits.csv"
    rows = np.random.default_rng(0).integers(0, 17, (1797, 65))
    rows[:, 64] %= 10
    np.savetxt(file, rows, delimiter=",", fmt="%d")
    others = recipe.extended(data={"kind": "digits", "path": str(file), "augment": _augment(recipe)})
    with pytest.raises(mk.RecipeError, match="source: content_sha256 is") as caught:
        train(on_tokens(others, cache), tmp_path / "run")
    assert "transform:" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        mk.MageKitError, match=r"is a cache of something else(.|\n)*transform: crops is 3 in the cache, 4"
    ):
        tokenize(recipe, cache, crops=4, mirrored=True)
    train(on_tokens(recipe, cache), tmp_path / "fits")


def test_caches_that_are_none_or_damaged(recipe: mk.Recipe, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError, match=r"\$\.data\.path: '.*', must be a token cache"):
        on_tokens(recipe, tmp_path).build_dataset()
    with pytest.raises(mk.MageKitError, match="is not empty"):
        tokenize(recipe, cache.parent, crops=1)
    content = shard_file(cache, 3).read_bytes()
    shard_file(cache, 3).write_bytes(content[:50])
    with pytest.raises(mk.RecipeError, match=r"tokens-00003.safetensors: damaged"):
        on_tokens(recipe, cache).build_dataset()
    shard_file(cache, 3).write_bytes(content)
    card = json.loads((cache / CACHE_FILE).read_text())
    card["transform"]["crops"] = 2
    (cache / CACHE_FILE).write_text(json.dumps(card))
    with pytest.raises(mk.RecipeError, match=r"cache\.json: is not what was written"):
        on_tokens(recipe, cache).build_dataset()
    list_files(cache / CACHE_FILE)
    with pytest.raises(mk.RecipeError, match="its fingerprint is not that of its content"):
        on_tokens(recipe, cache).build_dataset()


def test_what_cannot_be_cached_is_said(recipe: mk.Recipe, tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.weights: null, must name a folder"):
        tokenize(small(), tmp_path / "cache")
    still = recipe.extended(data={"kind": "digits", "augment": _augment(recipe, flip=0.0)})
    with pytest.raises(mk.RecipeError, match=r"\$\.data\.augment\.flip: 0, so --flip"):
        tokenize(still, tmp_path / "cache", mirrored=True)
    assert not (tmp_path / "cache").exists()
    alone = tokenize(still, tmp_path / "cache", crops=1)
    bare = still.extended(data={"kind": "token_cache", "path": str(alone)})
    with pytest.raises(mk.MageKitError, match="holds no images"):
        bare.build_dataset().still(0)
    with pytest.raises(mk.RecipeError, match="1 crop an image, 2 views need as many"):
        bare.extended(data={"kind": "token_cache", "path": str(alone), "views": 2}).build_dataset()
    unset = {**still.tokenizer.model_dump(mode="json"), "weights": None}
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.weights: null, must name the one that made the cache"):
        train(bare.extended(tokenizer=unset), tmp_path / "run")


@pytest.mark.slow
def test_cached_and_live_training_end_at_the_same_loss(trained: Path, tmp_path: Path) -> None:
    """Final loss from 20 cached crops within the spread of three seeds of live tokenization, or a hundredth."""
    sizes = ["training.epochs=15", 'model.encoder={"kind": "vit", "dim": 64, "depth": 3, "heads": 4, "dropout": 0.05}']
    tokenizer = train(
        mk.Recipe.load(RECIPES / "digits.json", ["training.epochs=0.1", "tokenizer_training.steps=300"]),
        tmp_path / "tokens",
    )
    live, cached = [], []
    for seed in range(3):
        changes = [*sizes, f"seed={seed}", f'tokenizer.weights="{tokenizer}"', "training.log_every=100"]
        recipe = mk.Recipe.load(RECIPES / "digits.json", changes)
        train(recipe, tmp_path / f"live{seed}")
        cache = tokenize(recipe, tmp_path / f"cache{seed}", crops=20)
        train(on_tokens(recipe, cache), tmp_path / f"cached{seed}")
        for name, into in (("live", live), ("cached", cached)):
            into.append(read_metrics(tmp_path / f"{name}{seed}", "model")[-1]["loss"])
    spread = max(live) - min(live)
    print(f"final loss, live {live}, cached {cached}, spread of the live seeds {spread:.4f}")
    assert all(math.isfinite(loss) for loss in live + cached)
    assert abs(sum(cached) - sum(live)) / 3 <= max(spread, 0.01 * live[0])
