"""What a step is made of besides the model: loading, prefetch, shares of its time, precision of what is predicted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.training import loading_processes
from mage_kit.training.batches import Batch
from mage_kit.training.loading_processes import count_workers, loading_words, own_cores
from mage_kit.training.metrics import read_metrics
from mage_kit.training.prefetch import prefetch, time_waits
from mage_kit.training.step_clock import StepClock, words
from mage_kit.training.train import train
from tests.loops import loop_of
from tests.training.test_training import small

CPU = torch.device("cpu")
PATCHES = [
    'tokenizer={"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}', "tokenizer_training=null",
    "model.padding=mask_token", 'model.losses=[{"kind": "masked_mse", "weight": 1.0}]',
]  # fmt: skip


def batches(count: int, wait: float = 0.0) -> Iterator[Batch]:
    for number in range(count):
        time.sleep(wait)
        yield Batch({"images": torch.full((1, 1, 2, 2), number)}, torch.tensor([number]), 0, 1)


def test_batches_come_in_order_and_waiting_is_told() -> None:
    waits: list[float] = []
    come = [int(batch.index_B) for batch in time_waits(prefetch(batches(4, 0.01), CPU), waits.append)]
    assert come == [0, 1, 2, 3] and len(waits) == 4 and all(wait >= 0.009 for wait in waits)


def test_shares_of_a_step_add_up() -> None:
    clock = StepClock(CPU)
    clock.add_wait(0.02)
    time.sleep(0.02)
    with clock.tokenizing():
        time.sleep(0.04)
    time.sleep(0.02)
    shares = clock.read()
    assert sum(shares.values()) == pytest.approx(1, abs=2e-3) and shares["tokenizer"] > shares["data"] > 0.1
    assert clock.read()["model"] == pytest.approx(1, abs=1e-2)
    assert words({"data": 0.3, "tokenizer": 0.004, "model": 0.696}) == "data 30%"


def test_a_slow_data_set_shows_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(type(small().build_dataset())):  # type: ignore[misc]  # whatever the recipe builds
        def sample(self, *place: Any) -> Any:
            time.sleep(0.002)
            return super().sample(*place)

    recipe = small("training.epochs=0.5")
    images = recipe.build_dataset()
    images.__class__ = Slow
    train(recipe, tmp_path / "run", images=(images, None))
    shares = [record["step_shares"] for record in read_metrics(tmp_path / "run", "model")]
    assert all(each["data"] > 0.3 for each in shares) and "images/s (data " in capsys.readouterr().err


def test_loading_processes_follow_what_loading_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    job, gpu = loop_of(small()).job, torch.device("cuda")
    monkeypatch.setattr(loading_processes, "seconds_an_image", lambda images: 0.004)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    assert count_workers(job, CPU)[0] == 0
    count, why = count_workers(replace(job, operations=lambda: 400e9), gpu)  # a thousand images a second
    assert count == 5 and why.startswith("4.0 ms an image on one core: 1,000 images/s need 4 of your 16 cores")
    assert count_workers(replace(job, operations=lambda: 1e9), gpu)[0] == 15

    def read_back() -> float:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    assert count_workers(job, gpu)[0] == count_workers(replace(job, operations=read_back), gpu)[0] == 15
    assert loading_words(1e-5, 2) == "1,000 images/s need 1 of your 2 cores"


def test_cores_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    for mine, cores in ((96, 12), (12, 12), (1, 1)):  # the whole machine, shared by eight; or bound, as SLURM's tasks
        monkeypatch.setattr("os.sched_getaffinity", lambda process, mine=mine: set(range(mine)))
        assert own_cores() == cores


def test_loading_is_timed_and_a_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < loading_processes.seconds_an_image(small().build_dataset()) < 1
    train(small("training.epochs=0.2", "training.workers=null"), tmp_path / "run")
    assert "loading in 0 processes: by rule" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_continuous_targets_are_not_rounded(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of small deviation would differ by a hundredth once they are normalised."""
    inputs_of_loss: list[Tensor] = []
    forward = mk.MaskedMSE.forward

    def watch(self: mk.MaskedMSE, inputs: Any) -> Any:
        inputs_of_loss.append(inputs.targets_M)
        return forward(self, inputs)

    monkeypatch.setattr(mk.MaskedMSE, "forward", watch)
    loop = loop_of(small(*PATCHES), precision=precision)
    (batch,) = loop.batches(0, 1)
    loop.gradients(batch, 0)
    (targets,) = inputs_of_loss
    values = loop.task.model.tokenize(batch.images_TCHW.float() / 255)["tokens"].flatten(0, 1)
    assert targets.dtype == torch.float32
    rows = {tuple(row) for row in values.tolist()}
    assert all(tuple(row) in rows for row in targets.tolist()), "each is a patch, bit for bit"


def test_a_bfloat16_residual_stream_is_near_and_only_in_training() -> None:
    losses, kinds = [], []
    for residual in ("float32", "bfloat16"):
        recipe = small("training.precision=bfloat16", f"kernels.residual={residual}")
        loop = loop_of(recipe, precision="bfloat16")
        (player,), (batch,) = loop.players, loop.batches(0, 1)
        block = loop.task.model.encoder.blocks[1]
        block.register_forward_pre_hook(lambda part, inputs: kinds.append(inputs[0].dtype))
        losses.append(float(loop.gradients(batch, 0)))
        assert all(value.grad.dtype == torch.float32 for value in player.names.values())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            loop.task.model.features(torch.rand(2, 1, 32, 32))
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=2e-2)
