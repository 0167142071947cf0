"""Pre-training step and generation of ViT-B at 256 pixels: mage_kit beside the published algorithm written plainly.

    python -m benchmarks.end_to_end [--images 2] [--json FILE]

Everything runs in one process, in turn, so that a machine that slows down slows all sides; medians are printed as
ratios. Weights are random: times do not depend on them. The reference runs in float32, as published code does on a CPU,
and again under the same autocast as ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mage_kernels import choose_attention
from torch import Tensor

import mage_kit as mk
from benchmarks.published import PublishedMage
from mage_kit.losses import BatchMasks
from mage_kit.storage import best_device

RECIPE = Path(__file__).parent.parent / "recipes" / "mage_vitb.json"
RATIO, STEPS, TAU = 0.7, 20, 6.0


@dataclass(frozen=True)
class Side:
    """One of the things timed.

    Args:
        name: Of the side.
        run: Does it once.
    """

    name: str
    run: Callable[[], object]


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(sides: list[Side], device: torch.device, warm: int, repeats: int) -> dict[str, list[float]]:
    """Time the sides in turn: seconds of each repeat."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(warm + repeats):
        for side in sides:
            synchronise(device)
            start = time.perf_counter()
            side.run()
            synchronise(device)
            if turn >= warm:
                times[side.name].append(time.perf_counter() - start)
        print(f"  turn {turn + 1}/{warm + repeats}{' (warm-up)' if turn < warm else ''}", flush=True)
    return times


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Matrix product rate in FLOP/s: the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        synchronise(device)
        start = time.perf_counter()
        left @ right
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak(run: Callable[[], object], device: torch.device) -> float | None:
    """Bytes that a run needs beyond what was there before; None on a CPU, where freed memory stays with the process."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return float(torch.cuda.max_memory_allocated(device) - before)


class Bench:
    """Both models with the same weights, and one step of each kind.

    Args:
        images: A batch.
        device: Where.
        dropout: On both sides.
    """

    def __init__(self, images: int, device: torch.device, dropout: float) -> None:
        self.device, self.count = device, images
        rates = [f"model.{part}.dropout={dropout}" for part in ("encoder", "decoder", "embedding")]
        recipe = mk.Recipe.load(RECIPE, rates)
        self.model = recipe.build_model().to(device).train()
        self.plain = PublishedMage(self.model).to(device).train()
        plain_tokenizer = recipe.build_tokenizer().to(device).eval().requires_grad_(False)
        plain_tokenizer.load_state_dict(self.model.tokenizer.state_dict())
        self.plain.tokenizer = plain_tokenizer
        self.model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (images, self.model.encoder.heads, 129, self.model.encoder.dim // self.model.encoder.heads)
        choice = choose_attention("auto", device, torch.bfloat16, shape, dropout)
        self.model.set_attention(choice.implementation, inference="sdpa")
        self.attention = f"{choice.implementation} ({choice.reason})"
        ours = [parameter for _, parameter in self.model.trainable()]
        self.optimizer = torch.optim.AdamW(ours, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        theirs = [parameter for name, parameter in self.plain.named_parameters() if not name.startswith("tokenizer.")]
        self.plain_optimizer = torch.optim.AdamW(theirs, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05)
        self.pixels = torch.rand(images, 3, *recipe.build_tokenizer().image_size, device=device)
        self.ids = self.model.tokenizer.encode(self.pixels)

    def fast(self) -> torch.autocast:
        """Our autocast."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def noise(self) -> Tensor:
        """Fresh mask noise."""
        return torch.rand(self.count, self.model.spec.grid.size, device=self.device)

    def ours(self, live: bool) -> None:
        """One of our steps, with the tokenizer in the loop or from cached tokens."""
        with self.fast():
            ids = self.model.tokenizer.encode(self.pixels) if live else self.ids
            ratio_B = torch.full((self.count,), RATIO, dtype=torch.float64)
            plan = self.model.plan(ratio_B, self.noise())
            masks = BatchMasks(ratio_B, int(self.model.n_masked(ratio_B).sum()), 1)
            loss = self.model(ids, plan, masks).terms[0].total / masks.masked_tokens
        self._update(loss, self.model, self.optimizer)

    def reference(self, fast: bool) -> None:
        """One step of the published algorithm."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            ids = self.plain.tokenizer.encode(self.pixels)
            loss = self.plain.loss(ids, RATIO, self.noise())
        self._update(loss, self.plain, self.plain_optimizer)

    def _update(self, loss: Tensor, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def generate(self, ours: bool, fast: bool) -> None:
        """Generate images from nothing."""
        images = 64 if self.device.type == "cuda" else 4
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            if ours:
                mk.generate(self.model, images, steps=STEPS)
            else:
                self.plain.eval()
                self.plain.generate(images, STEPS, TAU)
                self.plain.train()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2, help="images in a training step")
    parser.add_argument("--dropout", type=float, default=0.1, help="on both sides")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--generations", type=int, default=2, help="repeats of generation")
    parser.add_argument("--json", type=Path, default=None, help="file to write")
    given = parser.parse_args()
    device = best_device()
    torch.manual_seed(0)
    bench = Bench(given.images, device, given.dropout)
    print(f"ViT-B, {given.images} images a step, {device}, attention {bench.attention}", flush=True)
    rates = {name: ceiling(device, dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    print(
        "matrix ceiling: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()), flush=True
    )
    steps = [
        Side("published, float32", lambda: bench.reference(False)),
        Side("published, bfloat16", lambda: bench.reference(True)),
        Side("mage_kit, live", lambda: bench.ours(True)),
        Side("mage_kit, cached", lambda: bench.ours(False)),
    ]
    times = measure(steps, device, given.warm, given.repeats)
    memory = {side.name: peak(side.run, device) for side in steps}
    making = [
        Side("published, float32", lambda: bench.generate(False, False)),
        Side("published, bfloat16", lambda: bench.generate(False, True)),
        Side("mage_kit", lambda: bench.generate(True, True)),
    ]
    made = measure(making, device, 1, given.generations)
    report(times, made, memory, rates, given)


def report(
    times: dict[str, list[float]],
    made: dict[str, list[float]],
    memory: dict[str, float | None],
    rates: dict[str, float],
    given: argparse.Namespace,
) -> None:
    """Print the table and write the JSON."""
    step = {name: statistics.median(values) for name, values in times.items()}
    making = {name: statistics.median(values) for name, values in made.items()}
    for title, table in (("training step", step), ("generation", making)):
        print(f"\n{title}: median seconds, ratio to the float32 reference, to the one in the same precision")
        for name, seconds in table.items():
            plain, same = table["published, float32"] / seconds, table["published, bfloat16"] / seconds
            print(f"  {name:22} {seconds:8.3f} s {plain:6.2f}x {same:6.2f}x")
    result = {
        "step_ratio_live": step["published, float32"] / step["mage_kit, live"],
        "step_ratio_cached": step["published, float32"] / step["mage_kit, cached"],
        "generation_ratio": making["published, float32"] / making["mage_kit"],
        "step_ratio_live_same_precision": step["published, bfloat16"] / step["mage_kit, live"],
        "step_ratio_cached_same_precision": step["published, bfloat16"] / step["mage_kit, cached"],
        "generation_ratio_same_precision": making["published, bfloat16"] / making["mage_kit"],
        "matrix_ceiling": rates,
        "seconds": {"step": times, "generation": made},
        "peak_bytes": memory,
        "settings": {"images": given.images, "dropout": given.dropout, "ratio": RATIO, "steps": STEPS},
        "machine": {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
    ours, theirs = memory["mage_kit, live"], memory["published, float32"]
    if ours is not None and theirs is not None:
        result["peak_memory_ratio"] = ours / theirs
        held = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in memory.items() if size is not None)
        print(f"\npeak memory of a step: {held}")
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
