"""Several processes (gloo) against one: the same losses, gradients, masks and weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mage_kit as mk
from mage_kit.base import processes
from mage_kit.base.manifest import check_folder
from mage_kit.losses import Gather
from mage_kit.training.batches import spread
from mage_kit.training.launch import run_processes
from mage_kit.training.metrics import read_metrics
from tests.loops import loop_of
from tests.training.test_lone_stages import contrast
from tests.training.test_training import small

CONTRAST = [
    "training.batch=16",
    "training.precision=float32",
    "model.ratio_group=1",  # every image has its own ratio: counts differ between processes
    "data.augment.views=2",
    'model.losses=[{"kind": "masked_cross_entropy", "weight": 1.0}, {"kind": "info_nce", "weight": 0.1, "hidden": 32, '
    '"output": 16, "gate": 0.7}]',
]
DRY = ["model.encoder.dropout=0.0", "model.decoder.dropout=0.0", "model.embedding.dropout=0.0"]


def run(what: str, recipe: mk.Recipe, folder: Path, count: int, *flags: str) -> dict[str, Tensor]:
    path, out = folder / "recipe.json", folder / f"{what}-{count}-{'-'.join(flags)}.safetensors"
    path.write_text(recipe.to_json())
    assert run_processes(count, ["-m", "tests.training.process_program", what, str(path), str(out), *flags], 1) == 0
    return load_file(out)


def close(one: dict[str, Tensor], many: dict[str, Tensor], rel: float) -> None:
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, many[name]), name
            continue
        scale = float(tensor.abs().max()) or 1.0
        assert float((tensor - many[name]).abs().max()) <= rel * scale, name


@pytest.mark.parametrize(
    ("count", "flags", "changes"),
    [
        (2, (), []),
        pytest.param(4, (), ['model.losses[1].negatives="cross_view"'], marks=pytest.mark.slow),
        (2, ("shard",), []),
        (2, (), ["training.micro_batch=4", "model.losses[1].weight=0.0"]),
    ],
    ids=["mage_c", "four-cross_view", "sharded", "accumulated"],
)
def test_processes_give_the_gradients_of_one(
    count: int, flags: tuple[str, ...], changes: list[str], tmp_path: Path
) -> None:
    """Dropout off, unequal masked counts, ratios on both sides of the contrastive gate; 1e-5 of each tensor's size."""
    recipe = small(*CONTRAST, *DRY, *changes)
    one = run("gradients", recipe.model_copy(), tmp_path, 1)
    many = run("gradients", recipe, tmp_path, count, *flags)
    loose = {name for name in one if name.startswith("after.")}  # Adam's first step is the gradient's sign: see below
    close({k: v for k, v in one.items() if k not in loose}, {k: v for k, v in many.items() if k not in loose}, 1e-5)
    for name in loose:
        assert float((one[name] - many[name]).abs().mean()) <= 1e-3 * float(one[name].abs().mean()) + 1e-7, name
    assert float(one["clipped_norm"]) == pytest.approx(1e-3, rel=1e-3) and float(one["norm"]) > 0.01
    assert len(set(one["index"].tolist())) == 16
    masks = one["masks"]
    assert len({tuple(row) for row in masks[0].long().tolist()}) > 12, "masks differ between images and processes"
    counts = masks[0].sum(dim=1)
    assert int(counts[:8].sum()) != int(counts[8:].sum()), "the processes have unequal numbers of masked tokens"


@pytest.mark.parametrize("flags", [(), pytest.param(("shard",), marks=pytest.mark.slow)], ids=["whole", "sharded"])
def test_labels_and_a_frozen_encoder_over_processes(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Two views, labels withheld here and there; nothing of the encoder moves."""
    decoder = (
        '{"kind": "class_vit", "classes": 10, "dim": 32, "depth": 1, "heads": 2, "dropout": 0.0, "label_dropout": 0.3}'
    )
    changes = [f"model.decoder={decoder}", 'pretrained={"weights": "not read", "freeze": true}']
    dry = [change for change in DRY if "decoder" not in change]
    recipe = small(*CONTRAST, *dry, *changes)
    one = run("gradients", recipe.model_copy(), tmp_path, 1)
    many = run("gradients", recipe, tmp_path, 2, *flags)
    kept = [name for name in one if not name.startswith("after.")]
    close({name: one[name] for name in kept}, {name: many[name] for name in kept}, 1e-5)
    assert not [name for name in one if name.startswith(("encoder.", "embedding."))]
    assert float(one["decoder.class_rows.weight"].abs().sum(dim=1).count_nonzero()) >= 8, "labels, and one for none"


def test_contrast_alone_over_processes(tmp_path: Path) -> None:
    """No mask and no decoder: negatives and gradients of the joined batch, and nothing left out of the gradient."""
    recipe = contrast("training.batch=16", "training.precision=float32", *(d for d in DRY if "decoder" not in d))
    one, two = (run("gradients", recipe, tmp_path, count) for count in (1, 2))
    names = [name for name in one if not name.startswith("after.")]
    close({name: one[name] for name in names}, {name: two[name] for name in names}, 1e-5)
    assert not bool(one["masks"].any()) and float(one["norm"]) > 0.01
    assert {name.split(".")[0] for name in names if "." in name} == {"embedding", "encoder", "losses"}


def test_the_gate_has_images_on_both_sides(tmp_path: Path) -> None:
    inside = loop_of(small(*CONTRAST)).task.ratios(3, 16) <= 0.7
    for part in (inside[:8], inside[8:]):
        assert bool(part.any()) and not bool(part.all())


@pytest.mark.slow
def test_a_tokenizer_trains_the_same_on_two_processes(tmp_path: Path) -> None:
    """Codebook means, first placement and restarts are those of the joined batch."""
    recipe = small("tokenizer_training.batch=16", "tokenizer_training.steps=100", "tokenizer.quantizer.restart=0.5")
    close(run("tokenizer", recipe, tmp_path, 1), run("tokenizer", recipe, tmp_path, 2), 2e-3)


def cli(*arguments: str, **environment: str) -> list[str]:
    return [sys.executable, "-m", "mage_kit.cli", *arguments]


@pytest.mark.parametrize(
    ("shard", "then"),
    [pytest.param(*words, marks=pytest.mark.slow) for words in (("false", 1), ("true", 2), ("true", 1))],
    ids=["ddp-1", "fsdp2-2", "fsdp2-1"],
)
def test_a_run_on_two_processes_goes_on(shard: str, then: int, tmp_path: Path) -> None:
    """Stopped by SIGTERM and resumed with one, or two again: the same images and the same curve from there."""
    settings = ["training.batch=16", "training.precision=float32", "training.epochs=1", "training.log_every=8"]
    settings += ["training.checkpoint_every=1000", f"training.shard={shard}", "training.ema=0.9", "training.clip=1.0"]
    settings += ["training.samples_every=0.5", "training.samples_every=1.0", "tokenizer_training.steps=8"]
    settings += ["tokenizer_training.precision=float32", "tokenizer_training.checkpoint_every=1000"]
    path = tmp_path / "recipe.json"
    path.write_text(small(*settings, *DRY).to_json())
    out = tmp_path / "run"
    process = subprocess.Popen(
        cli("train", str(path), "--out", str(out), "--processes", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not read_metrics(out, "model"):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopped after step" in told and told.count("stopped after") == 1
    assert "8 a process x 2 processes x 1 accumulated = 16 images a step" in errors
    at = int(told.split("stopped after step")[1].split()[0])
    assert 8 <= at < 112
    again = cli("train", str(path), "--out", str(out), "--resume", "--processes", str(then))
    done = subprocess.run(again, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert f"resuming from {out}/checkpoints/model/step-{at:08d}" in done.stderr
    alone = tmp_path / "elsewhere" / "alone"
    alone.parent.mkdir()
    subprocess.run(cli("train", str(path), "--out", str(alone), "--set", f"tokenizer.weights={out}"), check=True)
    split, whole = read_metrics(out, "model"), read_metrics(alone, "model")
    assert [record["step"] for record in split] == [record["step"] for record in whole]
    for first, second in zip(split, whole, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=2e-4)
    assert {path.name for path in (out / "samples").iterdir()} == {"model-step-00000112.png"}
    raw, mean = mk.load(out), mk.load(out, weights="ema")
    assert not torch.equal(raw.decoder.positions_NE, mean.decoder.positions_NE)
    check_folder(out / "checkpoints" / "model" / "step-00000112")


POISONED = """
import os
from mage_kit.decoders import DECODERS, ViTDecoder
from mage_kit.base.fields import Positive
from torch import nn
class Poison(nn.Module):
    calls = 0
    def forward(self, value):
        Poison.calls += self.training
        return value * float("nan") if os.environ.get("RANK") == "1" and Poison.calls in (5, 6) else value
@DECODERS.register("poisoned")
class Poisoned(ViTDecoder):
    '''A decoder with a weak spot.

    Args:
        dim: Width.
        depth: Blocks.
        heads: Heads.
    '''
    def __init__(
        self, encoder_dim: int, num_tokens: int, *, dim: Positive = 32, depth: Positive = 1, heads: Positive = 2
    ):
        super().__init__(encoder_dim, num_tokens, dim=dim, depth=depth, heads=heads)
        self.weak_spot = Poison()
    def forward(self, padded_BNE, condition=None):
        return super().forward(self.weak_spot(padded_BNE), condition)
"""


@pytest.mark.slow
def test_one_process_gone_to_nan_makes_all_skip_and_names_its_module(tmp_path: Path) -> None:
    """The second process's output is spoilt in the fifth pass, and again when it is looked into."""
    (tmp_path / "weak.py").write_text(POISONED)
    settings = ["training.batch=16", "training.precision=float32", "training.epochs=0.2", "tokenizer_training.steps=4"]
    settings += ["tokenizer_training.precision=float32"]
    data = json.loads(small(*settings).to_json())
    data["plugins"], data["model"]["decoder"] = ["weak"], {"kind": "poisoned"}
    (tmp_path / "recipe.json").write_text(json.dumps(data))
    command = cli("train", "recipe.json", "--out", "run", "--processes", "2")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not finite, first in the output of 'decoder.weak_spot'") == 1, done.stderr
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["skipped"] == 1 and records[-1]["step"] == 22


def test_a_batch_that_cannot_be_spread_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(small("tokenizer_training.batch=33").to_json())
    command = cli("train", str(path), "--out", str(tmp_path / "run"), "--processes", "2")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.count("$.tokenizer_training.batch: 33, must be a multiple of the processes (2)") == 1


@pytest.mark.slow
def test_torchrun_starts_it_too(tmp_path: Path) -> None:
    """As on several machines, here on one: the same losses as the program's own launcher."""
    settings = ["training.batch=16", "training.precision=float32", "training.epochs=0.2", "tokenizer_training.steps=4"]
    settings += ["tokenizer_training.precision=float32"]
    path = tmp_path / "recipe.json"
    path.write_text(small(*settings, *DRY).to_json())
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mage_kit.cli"]
    curves = []
    for number, start in enumerate(([sys.executable, *torchrun], [sys.executable, "-m", "mage_kit.cli"])):
        out = tmp_path / f"{number}" / "run"
        own = [] if number == 0 else ["--processes", "2"]
        done = subprocess.run(
            [*start, "train", str(path), "--out", str(out), *own],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder:") == 1
        curves.append([record["loss"] for record in read_metrics(out, "model")])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6) and len(curves[0]) > 1


def test_a_failing_process_ends_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import os, sys, time\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    start = time.monotonic()
    assert run_processes(2, ["-c", program], None) == 3
    assert time.monotonic() - start < 20


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(small("training.batch=4096").to_json())
    done = subprocess.run(
        cli("train", str(path), "--out", str(tmp_path / "run"), "--processes", "2"), capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("$.training.batch: 4096") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_that_cannot_be_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 3)
    with pytest.raises(mk.RecipeError, match=r"\$\.training\.batch: 128, must be a multiple of the processes \(3\)"):
        spread("$.training", 128, None, "x")
    assert str(spread("$.training", 96, 8, "x")) == "8 a process x 3 processes x 4 accumulated = 96 images a step"
    assert spread("$.training", 96, 64, "x").micro == 32
    with pytest.raises(mk.RecipeError, match=r"micro_batch: 20, must divide a process's share \(32\)"):
        spread("$.training", 96, 20, "x")


def test_one_process_needs_nothing_started() -> None:
    tensor = torch.ones(3, requires_grad=True)
    assert Gather()(tensor) is tensor and Gather().place(3) == 0
    assert processes.world() == 1 and processes.collect("a") == ["a"] and processes.on_first(lambda: 4) == 4
