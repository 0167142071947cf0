"""Training on real digits: resuming gives the same bits, workers and micro-batches change nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.base.files import write_text
from mage_kit.base.progress import Reporter
from mage_kit.store.run_folders import clear_run
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.loader import Order, batches
from mage_kit.training.metrics import RatioBins, read_metrics
from mage_kit.training.train import train
from tests.loops import loop_of
from tests.recipes.test_recipe import RECIPES, digits

SMALL = [
    "tokenizer.base_channels=8",
    "tokenizer.quantizer.codes=32",
    'model.encoder={"kind": "vit", "dim": 32, "depth": 2, "heads": 2, "dropout": 0.1}',
    'model.decoder={"kind": "vit", "dim": 32, "depth": 1, "heads": 2, "dropout": 0.1}',
    "tokenizer_training.steps=20",
    "tokenizer_training.batch=32",
    "training.epochs=2",
    "training.warmup_epochs=1",
    "training.log_every=4",
    "training.checkpoint_every=7",
    "tokenizer_training.log_every=4",
    "tokenizer_training.checkpoint_every=7",
]


def small(*changes: str) -> mk.Recipe:
    return mk.Recipe.load(RECIPES / "digits.json", [*SMALL, *changes])


def curve(folder: Path) -> list[dict[str, Any]]:
    measured = {"images_per_s", "peak_memory_gib", "step_shares"}
    return [{k: v for k, v in record.items() if k not in measured} for record in read_metrics(folder)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(), tmp_path_factory.mktemp("runs") / "unbroken")


def test_a_run_leaves_what_is_promised(unbroken: Path) -> None:
    assert {"recipe.json", "metrics.jsonl", "decisions.json", "model.safetensors", "tokenizer", "checkpoints"} <= {
        path.name for path in unbroken.iterdir()
    }
    records = read_metrics(unbroken)
    model = [record for record in records if record["stage"] == "model"]
    assert [record["step"] for record in model][-1] == 28
    assert {"loss", "masked_cross_entropy", "chance", "accuracy", "by_ratio", "lr", "grad_norm", "epoch"} <= model[
        0
    ].keys()
    assert model[0]["chance"] == pytest.approx(3.4657, abs=1e-3)
    assert model[-1]["loss"] < model[0]["loss"]
    assert set(model[0]["by_ratio"]) <= {"0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-0.9", "0.9-1.0"}
    assert len(list_checkpoints(unbroken / "checkpoints" / "model")) == 2
    decisions = json.loads((unbroken / "decisions.json").read_text())
    assert all(item["reason"] for item in decisions.values()) and set(decisions) == {
        "tokenizer_precision",
        "model_precision",
        "model_compile",
        "model_micro_batch",
        "tokenization",
        "attention_decoder",
        "attention_encoder",
    }
    loaded = mk.load(unbroken)
    assert mk.generate(loaded, 2).images_BCHW.shape == (2, 1, 32, 32)


def test_everything_that_a_run_leaves_may_be_overwritten(tmp_path: Path) -> None:
    """As by `make demo` again: nothing in the folder is taken for somebody else's."""
    out = train(small("training.ema=0.9", "training.samples_every=0.1", "training.epochs=0.2"), tmp_path / "run")
    assert {"ema.safetensors", "samples", ".lock"} <= {path.name for path in out.iterdir()}
    (out / "adversary").mkdir()
    names = "broken.json report.html tokenizer_audit.json adversary/adversary.json"
    for name in (*names.split(), "generated-seed0-n64.json", "generated-seed0-n64.gif"):
        write_text(out / name, "{}")
    with pytest.raises(mk.MageKitError, match="which no run writes"):
        clear_run(out, overwrite=True)
    write_text(out / "generated-seed0-n64.png", "")
    clear_run(out, overwrite=True)
    assert not out.exists()


def test_a_damaged_tokenizer_is_trained_again(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "alone" / "run"
    shutil.copytree(unbroken, run)
    whole = (run / "tokenizer" / "tokenizer.safetensors").read_bytes()
    (run / "tokenizer" / "tokenizer.safetensors").write_bytes(whole[:-50])
    train(small(), run, resume=True)
    assert (run / "tokenizer" / "tokenizer.safetensors").read_bytes() == whole


def test_nothing_is_overwritten_and_resume_wants_the_same_recipe(unbroken: Path) -> None:
    with pytest.raises(mk.MageKitError, match="is not empty"):
        train(small(), unbroken)
    with pytest.raises(mk.RecipeError, match=r"\$\.training\.\w+: differs"):
        train(small("training.epochs=4"), unbroken, resume=True)


def test_a_trained_tokenizer_is_reused_where_its_fingerprint_matches(
    unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = unbroken.parent / "other"
    train(small("model.mask_ratio=uniform"), other)
    assert "reusing the tokenizer of" in capsys.readouterr().err
    assert not (other / "checkpoints" / "tokenizer").exists()
    a, b = (load_file(folder / "tokenizer" / "tokenizer.safetensors") for folder in (unbroken, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    third = unbroken.parent / "third"
    train(small("tokenizer.quantizer.commitment=0.1", "training.epochs=0.2"), third)
    assert (third / "checkpoints" / "tokenizer").exists(), "another tokenizer must not be reused"
    fourth = unbroken.parent / "fourth"
    train(small(f'tokenizer.weights="{unbroken}"', "training.epochs=0.2", "tokenizer_training=null"), fourth)
    assert mk.load(fourth).tokenizer.spec == mk.load(unbroken).tokenizer.spec
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.quantizer\.codes: 64, the trained one has 32"):
        train(small(f'tokenizer.weights="{unbroken}"', "tokenizer.quantizer.codes=64"), unbroken.parent / "fifth")


def test_workers_change_nothing() -> None:
    dataset = small("training.workers=0").build_dataset()
    order = Order(len(dataset), 64, 3)
    alone, helped = (list(batches(dataset, order, 25, 31, 7, workers)) for workers in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first.images_TCHW, second.images_TCHW) and torch.equal(first.index_B, second.index_B)
        assert first.epoch == second.epoch


def test_an_epoch_sees_each_image_once_and_leaves_out_only_the_rest() -> None:
    order = Order(101, 10, 0)
    seen = [index for step in range(10) for index in order.indices(step)[1]]
    assert len(set(seen)) == 100 and order.indices(10)[0] == 1
    assert order.indices(3) == Order(101, 10, 0).indices(3)
    assert order.indices(13)[1] != order.indices(3)[1]
    with pytest.raises(mk.MageKitError, match="batch: 102"):
        Order(101, 102, 0)


def test_micro_batches_change_nothing_but_rounding(unbroken: Path, tmp_path: Path) -> None:
    """Losses are divided by the whole batch's counts: gradients of 2 x 64 images are those of 128."""
    settings = ["training.precision=float32", "model.encoder.dropout=0.0", "model.decoder.dropout=0.0"]
    settings += [
        "model.embedding.dropout=0.0",
        f'tokenizer.weights="{unbroken}"',
        "training.epochs=0.5",
        "model.ratio_group=7",
    ]
    curves = []
    for name, micro in (("whole", "null"), ("halves", "64"), ("quarters", "32")):
        train(small(*settings, f"training.micro_batch={micro}"), tmp_path / name)
        curves.append(read_metrics(tmp_path / name, "model"))
    for other in curves[1:]:
        for first, second in zip(curves[0], other, strict=True):
            assert first["loss"] == pytest.approx(second["loss"], rel=2e-5)
            assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)


def test_ratio_groups_follow_the_global_batch() -> None:
    for group, distinct in ((1, 128), (64, 2), (0, 1), (50, 3)):
        task = loop_of(small(f"model.ratio_group={group}")).task
        ratio = task.ratios(5, 128)
        assert len(set(ratio.tolist())) == distinct and torch.equal(ratio, task.ratios(5, 128))
        assert not torch.equal(ratio, task.ratios(6, 128))
        assert len(set(ratio[: group or 128].tolist())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        ["model.mask_ratio=cosine", "model.drop=0.0", "model.padding.replace_seen=false",
         'model.decoder={"kind": "linear", "dim": 32}'],
        ['tokenizer={"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}', "tokenizer_training=null",
         'model.mask_ratio={"kind": "fixed", "ratio": 0.75}', 'model.drop="lowest"', "model.padding=mask_token",
         'model.embedding={"positions": "sine_cosine", "norm": false, "dropout": 0.0}',
         'model.losses=[{"kind": "masked_mse", "weight": 1.0}]'],
        ["model.mask_ratio.high=0.6", "data.augment.views=2",
         'model.losses=[{"kind": "masked_cross_entropy", "weight": 1.0},'
         ' {"kind": "info_nce", "weight": 0.1, "hidden": 32, "output": 16}]'],
        ['tokenizer.quantizer={"kind": "gradient", "codes": 32, "width": 16}', "data.augment.flip=0.5",
         "tokenizer.channels=3"],
    ],
    ids=["maskgit", "mae", "mage_c", "gradient-codebook-rgb"],
)  # fmt: skip
def test_other_methods_are_compositions(changes: list[str], tmp_path: Path) -> None:
    """MaskGIT's, MAE's and MAGE-C's form train on digits from a recipe alone, and their loss falls."""
    train(small(*changes, "training.epochs=5"), tmp_path / "run")
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["loss"] < records[0]["loss"]
    assert mk.load(tmp_path / "run").features(
        torch.rand(2, mk.load(tmp_path / "run").tokenizer.channels, 32, 32)
    ).shape == (2, 32)


def test_a_plugin_ratio_trains_without_touching_the_library(unbroken: Path, tmp_path: Path) -> None:
    from tests.recipes.test_recipe import PLUGIN

    (tmp_path / "lab_ratio.py").write_text(PLUGIN.format(kind="lab"))
    data = json.loads(small(f'tokenizer.weights="{unbroken}"', "training.epochs=0.5").to_json())
    data["plugins"], data["model"]["mask_ratio"] = ["lab_ratio"], {"kind": "lab"}
    (tmp_path / "lab.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "mage_kit.cli", "train", "lab.json", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(read_metrics(tmp_path / "run", "model")[-1]["by_ratio"]) == {"0.5-0.6", "0.9-1.0"}


def test_ratio_bins_count_by_image() -> None:
    bins = RatioBins(0.5, 1.0, torch.device("cpu"))
    ratio = torch.tensor([0.5, 0.6, 1.0], dtype=torch.float64)
    image = torch.tensor([0, 0, 1, 2, 2, 2])
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0])
    bins.add(ratio, image, weight, torch.tensor([1.0, 3, 5, 7, 9, 100]), torch.tensor([1.0, 0, 1, 0, 0, 1]))
    record = bins.read()
    assert record["by_ratio"]["0.5-0.6"] == {"loss": 2.0, "accuracy": 0.5, "tokens": 2}
    assert record["by_ratio"]["0.6-0.7"]["loss"] == 5 and record["by_ratio"]["0.9-1.0"]["tokens"] == 2
    assert record["masked_loss"] == 5.0 and bins.read()["by_ratio"] == {}


def test_resume_wants_the_same_images(tmp_path: Path) -> None:
    dataset = small().build_dataset()
    data = tmp_path / "data"
    data.mkdir()
    for index in range(140):
        dataset.image(index).save(data / f"{index}.png")
    recipe = small(f'data={{"kind": "image_folder", "path": "{data}"}}', "training.epochs=1")
    train(recipe, tmp_path / "run")
    dataset.image(0).save(data / "another.png")
    with pytest.raises(mk.MageKitError, match="the images are not those of the run"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_broken_image_is_named_also_from_a_worker(tmp_path: Path) -> None:
    dataset = small().build_dataset()
    for index in range(130):
        dataset.image(index).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    recipe = small(f'data={{"kind": "image_folder", "path": "{tmp_path}"}}', "training.workers=2")
    order, dataset = Order(131, 131, 0), recipe.build_dataset()
    (batch,) = batches(dataset, order, 0, 1, 0, 2)
    assert [Path(name).name for name, _ in batch.broken] == ["broken.png"] and len(batch.index_B) == 131
    dataset.max_broken = 0.0
    with pytest.raises(mk.MageKitError, match=r"^image: '.*broken\.png', cannot be decoded"):
        list(batches(dataset, order, 0, 1, 0, 2))


def test_a_wrong_tokenizer_folder_leaves_no_run_behind(tmp_path: Path, unbroken: Path) -> None:
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.weights"):
        train(small('tokenizer.weights="nowhere"'), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    given = [f'tokenizer.weights="{unbroken}"', "tokenizer_training.batch=4096", "training.epochs=0.2"]
    train(small(*given), tmp_path / "run")  # a tokenizer that is not trained has no batch to fill


def test_mistakes_show_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError) as caught:
        train(small("training.batch=4096", "tokenizer_training.batch=2000"), tmp_path / "run")
    assert [line.split(",")[0] for line in caught.value.problems] == [
        "$.training.batch: 4096",
        "$.tokenizer_training.batch: 2000",
    ]
    with pytest.raises(mk.MageKitError, match="no run there"):
        train(small(), tmp_path / "mistyped", resume=True)
    assert not (tmp_path / "run").exists() and not (tmp_path / "mistyped").exists()


def test_a_small_contrastive_batch_is_told(tmp_path: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contrast = {"kind": "info_nce", "weight": 0.1, "hidden": 8, "output": 8}
    losses = json.dumps([{"kind": "masked_cross_entropy", "weight": 1.0}, contrast])
    views = ["data.augment.views=2", f"model.losses={losses}", "training.micro_batch=32", "training.epochs=0.2"]
    train(small(f'tokenizer.weights="{unbroken}"', *views), tmp_path / "run")
    assert "accumulation is no larger contrastive batch" in capsys.readouterr().err


def test_image_folders_train_too(tmp_path: Path) -> None:
    """Real files on disk: the digits as PNG in class folders."""
    dataset = mk.Recipe.parse(digits()).build_dataset()
    for index in range(150):
        place = tmp_path / "data" / str(dataset.label(index))
        place.mkdir(parents=True, exist_ok=True)
        dataset.image(index).resize((40, 30)).save(place / f"{index}.png")
    folder = json.dumps({"kind": "image_folder", "path": str(tmp_path / "data"), "augment": {"flip": 0.0}})
    train(small(f"data={folder}", "training.epochs=2"), tmp_path / "run", reporter=Reporter())
    assert len(read_metrics(tmp_path / "run", "model")) >= 1
    with pytest.raises(mk.RecipeError, match=r"\$\.data\.path: 'nowhere', must be a folder"):
        train(small('data={"kind": "image_folder", "path": "nowhere"}'), tmp_path / "none")
