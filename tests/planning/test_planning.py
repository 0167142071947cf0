"""The plan's formulas against torch's own counters: operations within 5%, memory within 15% (here: 4%)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mage_kernels.plan import make_plan
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

import mage_kit as mk
from mage_kit.losses import BatchMasks
from mage_kit.planning import Machine, estimate, memory_of_step, walk_step, walk_tokenizer
from mage_kit.planning.walk import Numbers
from mage_kit.recipes.workload import workload
from tests import build
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small

RATIO = 0.55
DRY = ["model.encoder.dropout=0.0", "model.decoder.dropout=0.0"]


class Counts:
    """Masked tokens an image, known beforehand: under fake tensors nothing can be read back."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def tolist(self) -> list[int]:
        return self.counts

    def to(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(len(self.counts), dtype=torch.int64)


def step(model: mk.Mage, optimizer: torch.optim.Optimizer, images: int, low: bool, tokenize: bool = False) -> None:
    """A training step on fake tensors, which have sizes and no memory."""
    rows, length = images * model.views, model.spec.grid.size
    ratio_B = torch.full((rows,), RATIO, dtype=torch.float64)
    if tokenize:
        with torch.no_grad():
            tokens = model.tokenizer.encode(torch.rand(rows, model.tokenizer.channels, *model.tokenizer.image_size))
    else:
        tokens = torch.zeros(rows, length, dtype=torch.int64)
    counts = [int(-(-RATIO * length // 1))] * rows
    plan = make_plan(torch.rand(rows, length), Counts(counts), model.n_dropped, rows_step=-(-rows * length // 16))  # type: ignore[arg-type]
    masks = BatchMasks(ratio_B, sum(counts), model.views)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        total = sum(term.total for term in model(tokens, plan, masks).terms)
    total.backward()
    optimizer.step()
    optimizer.zero_grad()


def measured(recipe: mk.Recipe, images: int, low: bool, recompute: bool = False, tokenize: bool = False) -> Any:
    """(operations, peak bytes) of a step, as torch's flop counter and memory tracker count them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = recipe.build_model().train()
        model.set_attention("matmul")
        model.set_recomputation(recompute)
        optimizer = torch.optim.AdamW([value for _, value in model.trainable()], foreach=False)
        step(model, optimizer, images, low)
        counter = FlopCounterMode(display=False)
        with counter:
            step(model, optimizer, images, low)
        model.tokenizer.requires_grad_(True)  # the tracker hooks every parameter
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            step(model, optimizer, images, low, tokenize)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return counter.get_total_flops(), peak["Total"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "low", "recompute", "changes"),
    [
        ("mage_vitb", 4, True, False, []),
        ("mage_vitb", 24, False, False, DRY),
        ("mage_vitb", 16, True, True, []),
        ("mage_vitl", 8, True, False, []),
        ("mage_c_vitb", 8, True, False, []),
    ],
)
def test_operations_and_memory_are_those_that_torch_counts(
    name: str, images: int, low: bool, recompute: bool, changes: list[str]
) -> None:
    recipe = mk.Recipe.load(RECIPES / f"{name}.json", changes)
    model = mk.check(recipe).model
    numbers = Numbers(low=2 if low else 4, mask=2, attention="matmul")
    operations, peak = measured(recipe, images, low, recompute)
    costs = walk_step(model, images, RATIO, numbers)
    planned = sum(cost.training for cost in costs.values())
    planned += sum(costs[part].forward for part in ("encoder", "decoder")) if recompute else 0.0
    memory = memory_of_step(model, images, RATIO, numbers, recompute=recompute, tokens_cached=True)
    print(f"{name} x {images}: operations {planned / operations:.4f}, memory {memory.peak / peak:.4f} of the counted")
    assert planned == pytest.approx(operations, rel=0.05)
    assert memory.peak == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
def test_the_tokenizer_is_counted_too() -> None:
    recipe = mk.Recipe.load(RECIPES / "mage_vitb.json")
    model = mk.check(recipe).model
    with FakeTensorMode(allow_non_fake_inputs=True):
        tokenizer = recipe.build_tokenizer()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            tokenizer.encode(torch.rand(2, 3, 256, 256))
        tracker = MemTracker()
        tracker.track_external(tokenizer)
        with tracker, torch.no_grad():
            tokenizer.requires_grad_(True).encode(torch.rand(8, 3, 256, 256))
        (alone,) = tracker.get_tracker_snapshot("peak").values()
    assert walk_tokenizer(model.tokenizer, 2)[0] == pytest.approx(counter.get_total_flops(), rel=0.01)
    weights = 4 * sum(value.numel() for value in tokenizer.parameters())
    planned = memory_of_step(model, 8, RATIO, Numbers(2, 2, "matmul")).tokenizer + weights
    print(f"the tokenizer alone: memory {planned / alone['Total']:.4f} of the counted")
    assert planned == pytest.approx(alone["Total"], rel=0.15)
    _, peak = measured(recipe, 32, True, tokenize=True)
    planned = memory_of_step(model, 32, RATIO, Numbers(2, 2, "matmul")).peak
    print(f"with the tokenizer in the loop: memory {planned / peak:.4f} of the counted")
    assert planned == pytest.approx(peak, rel=0.15)


def test_the_arithmetic_of_a_run() -> None:
    recipe = mk.Recipe.load(RECIPES / "mage_c_vitl.json", ["training.micro_batch=16"])
    machine = Machine(processes=64, tflops=400, utilization=0.4, bandwidth=50, memory=80)
    made = estimate(workload(recipe), machine)
    assert made.batch == 2048 and made.micro == 16 and made.steps == 1600 * (1_281_167 // 2048)
    total = sum(made.operations.values())
    assert made.seconds_per_step == pytest.approx(2048 * total / (64 * 400e12 * 0.4))
    assert made.days == pytest.approx(made.steps * made.seconds_per_step / 86400)
    assert made.traffic == pytest.approx(2 * 63 / 64 * 4 * 409.4e6, rel=1e-3)
    assert made.link_seconds == pytest.approx(made.traffic / 50e9) and made.ratio == pytest.approx(0.55, abs=0.01)
    assert made.fits > 16
    tight = estimate(workload(recipe), Machine(processes=64, memory=made.memory.peak / 2**30 / 0.92 * 1.001))
    assert tight.fits == 16, "the batch that fits takes just the memory that it was asked for"
    sharded = recipe.changed("training", shard=True)
    spread = estimate(workload(sharded), machine)
    assert spread.traffic == pytest.approx(1.5 * made.traffic), "two passes: weights four times, gradients once"
    wide = estimate(workload(sharded.changed("training", precision="float32")), machine)
    assert wide.traffic == pytest.approx(2.5 * made.traffic), "blocks travel in what they compute in"
    assert spread.memory.optimizer == pytest.approx(made.memory.optimizer / 64)
    with pytest.raises(mk.MageKitError, match="tflops: inf, must be a finite number"):
        estimate(workload(recipe), Machine(tflops=float("inf")))
    with pytest.raises(mk.MageKitError, match="processes: 48, must divide"):
        estimate(workload(recipe), Machine(processes=48))


@pytest.mark.slow
def test_the_command_prints_and_writes_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mage_kit.cli", "plan", str(RECIPES / "mage_vitb.json")]
    done = subprocess.run([*command, "--gpus", "64"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("tokenizer", "encoder", "that fit into 80 GiB", "days", "GB/s"):
        assert words in done.stdout
    made = subprocess.run([*command, "--gpus", "64", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["batch"] == 4096
    wrong = subprocess.run([*command, "--gpus", "63"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "processes: 63, must divide" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_cache_takes_the_tokenizer_out() -> None:
    recipe = small('data={"kind": "token_cache", "path": "x"}', 'tokenizer.weights="x"')
    assert estimate(workload(recipe), Machine(processes=1), 1797).operations["tokenizer"] == 0


def test_contrast_costs_encoder_and_projection_alone() -> None:
    """No decoder, nothing masked, nothing dropped: the plan, torch's counter, and the operations by hand, to 1%."""
    recipe, images = mk.Recipe.load(RECIPES / "simclr_digits.json"), 8
    model = mk.check(recipe).model
    assert model.decoder is None and model.n_dropped == 0 and model.mask_ratio.high == 0
    costs = walk_step(model, images, 0.0, Numbers(4, 1, "matmul"))
    planned = {name: cost.training for name, cost in costs.items()}
    assert planned["decoder"] == planned["head"] == 0

    encoder, loss = model.encoder, model.losses[0]
    rows, places, width = 2 * images, 1 + model.spec.grid.size, encoder.dim
    hidden = encoder.blocks[0].mlp.fc1.out_features
    linear = 2.0 * rows * places * width * (4 * width + 2 * hidden) * len(encoder.blocks)
    attention = 4.0 * rows * places**2 * width * len(encoder.blocks)
    projection = 2.0 * rows * (width * loss.hidden + loss.hidden * loss.output)
    alone = 3 * (linear + attention + projection)
    similarities = 3 * 2.0 * 2 * images * 2 * images * loss.output
    assert sum(planned.values()) == pytest.approx(alone + similarities, rel=0.01)
    assert planned["encoder"] == pytest.approx(3 * (linear + attention), rel=0.01)

    real = recipe.build_model()
    real.train().set_attention("matmul")
    ids = build.tokens(real, rows)
    ratio = torch.zeros(rows, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        output = real(ids, real.plan(ratio, torch.rand(rows, places - 1)), BatchMasks(ratio, 0, 2))
        output.terms[0].total.backward()
    assert sum(planned.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_classifier_is_planned_as_it_runs() -> None:
    """Operations of fine-tuning by torch's counter to 1%, parameters exactly; frozen for a probe, forward alone."""
    recipe, images = mk.Recipe.load(RECIPES / "finetune_digits.json", ["model.drop_path=0"]), 8
    model = workload(recipe).model
    planned = {name: cost.training for name, cost in walk_step(model, images, 0.0, Numbers(4, 1, "matmul")).items()}
    real = recipe.build_classifier()
    real.train().set_attention("matmul")
    ids = build.tokens(real, images)
    with FlopCounterMode(display=False) as counter:
        real(ids).sum().backward()
    assert sum(planned.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)
    trained = sum(value.numel() for _, value in real.trainable())
    assert sum(value.numel() for _, value in model.trainable()) == trained
    costs = estimate(workload(recipe), Machine(processes=1), 1797)
    assert costs.steps == 14 * int(recipe.training.get("epochs")) and costs.ratio == 0


def test_a_frozen_classifier_costs_no_backward_pass_through_its_encoder() -> None:
    recipe = mk.Recipe.load(RECIPES / "finetune_digits.json", ["pretrained.freeze=true"])
    costs = walk_step(workload(recipe).model, 4, 0.0, Numbers())
    assert costs["encoder"].training == costs["encoder"].forward and costs["losses"].training > costs["losses"].forward
