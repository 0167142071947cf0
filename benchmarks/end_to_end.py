"""Pre-training step and generation of ViT-B at 256 pixels: mage_kit beside the published algorithm written plainly.

    python -m benchmarks.end_to_end [--json FILE] [--grid 32]

Everything runs in one process, in turn, so that a machine that slows down slows all sides; medians are printed as
ratios. Weights are random: times do not depend on them. The reference runs in float32, as published code does on a CPU,
and again under the same autocast as ours. On a CPU our side keeps freed memory as our jobs do, and the reference runs
under the C library's own rule: the rule is switched between them, and an untimed run follows.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mage_kernels import keep_freed_memory

from benchmarks.agreement import agreements
from benchmarks.ceilings import matrix_ceiling, synchronise
from benchmarks.sides import Bench, Settings, model_flops

RUNS = {  # timed sides of each task: name, whether it is ours
    "step": ("published, float32", "published, bfloat16", "mage_kit, live", "mage_kit, cached"),
    "generation": ("published, float32", "published, bfloat16", "mage_kit"),
}


@dataclass(frozen=True)
class Side:
    """One of the things timed.

    Args:
        name: Of the side; ours start with "mage_kit".
        run: Does it once.
        settle: A short run, untimed, after the memory rule was switched.
    """

    name: str
    run: Callable[[], object]
    settle: Callable[[], object]

    @property
    def ours(self) -> bool:
        """Whether it is ours."""
        return self.name.startswith("mage_kit")


def measure(sides: list[Side], device: torch.device, warm: int, repeats: int) -> dict[str, list[float]]:
    """Time the sides in turn: seconds of each repeat. Warm-up runs are short ones."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    keeping: bool | None = None
    for turn in range(warm + repeats):
        for side in sides:
            if keeping != side.ours:
                keeping = side.ours
                keep_freed_memory(keeping)
                side.settle()
            if turn < warm:
                side.settle()
                continue
            synchronise(device)
            start = time.perf_counter()
            side.run()
            synchronise(device)
            times[side.name].append(time.perf_counter() - start)
        spent = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items() if values)
        print(f"  turn {turn + 1}/{warm + repeats}{f': {spent}' if spent else ' (warm-up)'}", flush=True)
    return times


def time_all(settings: Settings, given: argparse.Namespace, device: torch.device) -> tuple[dict[str, Any], str]:
    """Time steps and generation; seconds of each repeat, and the attention form that was chosen."""
    bench = Bench(settings, device)
    small = Bench(replace(settings, images=1), device, sharing=bench)
    steps = [
        Side(RUNS["step"][0], lambda: bench.reference(False), lambda: small.reference(False)),
        Side(RUNS["step"][1], lambda: bench.reference(True), lambda: small.reference(True)),
        Side(RUNS["step"][2], lambda: bench.ours(True), lambda: bench.ours(True)),
        Side(RUNS["step"][3], lambda: bench.ours(False), lambda: bench.ours(False)),
    ]
    making = [
        Side(RUNS["generation"][0], lambda: bench.generate(False, False), lambda: bench.generate(False, False, 1)),
        Side(RUNS["generation"][1], lambda: bench.generate(False, True), lambda: bench.generate(False, True, 1)),
        Side(RUNS["generation"][2], lambda: bench.generate(True, True), lambda: bench.generate(True, True, 1)),
    ]
    print("training step", flush=True)
    times = {"step": measure(steps, device, given.warm, given.repeats)}
    if given.generations:
        print("generation of 20 steps", flush=True)
        times["generation"] = measure(making, device, given.warm, given.generations)
    return times, bench.attention


def peaks(settings: Settings, device: torch.device) -> dict[str, float]:
    """Peak bytes of a training step of each side; on a CPU of a process that holds that side alone."""
    found = {}
    for name in RUNS["step"]:
        if device.type == "cuda":
            found[name] = Bench(settings, device, only=name).peak(name)
        else:
            words = [sys.executable, "-m", "benchmarks.sides", name, *settings.words()]
            found[name] = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"  peak memory of a step, {name}: {found[name] / 2**30:.2f} GiB", flush=True)
    return found


def ratios(times: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Ratios of medians, under the names of the JSON file."""
    found = {}
    for task, ours, name in (
        ("step", "mage_kit, live", "step_ratio_live"),
        ("step", "mage_kit, cached", "step_ratio_cached"),
        ("generation", "mage_kit", "generation_ratio"),
    ):
        if task in times:
            medians = {side: statistics.median(values) for side, values in times[task].items()}
            found[name] = medians["published, float32"] / medians[ours]
            found[f"{name}_same_precision"] = medians["published, bfloat16"] / medians[ours]
    return found


def report(result: dict[str, Any], settings: Settings) -> None:
    """Print the table."""
    flops, rates = model_flops(settings), result["matrix_ceiling"]
    for task, table in result["seconds"].items():
        print(f"\n{task}: median, spread, ratio to the reference in float32 and in bfloat16, share of the ceiling")
        medians = {name: statistics.median(values) for name, values in table.items()}
        for name, seconds in medians.items():
            rate = rates["float32" if name.endswith("float32") else "bfloat16"]
            share = flops[task] if name != "mage_kit, cached" else flops["cached"]
            spread = (max(table[name]) - min(table[name])) / seconds
            print(
                f"  {name:20} {seconds:8.3f} s  ±{spread / 2:4.0%} {medians['published, float32'] / seconds:6.2f}x"
                f" {medians['published, bfloat16'] / seconds:6.2f}x {share / seconds / rate:5.0%}"
            )
            result["share_of_ceiling"][f"{task}: {name}"] = share / seconds / rate
    for name in ("peak_memory_ratio", "token_agreement"):
        if name in result:
            print(f"{name}: {result[name]}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="images in a training step")
    parser.add_argument("--dropout", type=float, default=0.1, help="on both sides")
    parser.add_argument("--grid", type=int, default=16, help="tokens a side; 32 adds the growth to 512 pixels")
    parser.add_argument("--model", choices=("vitb", "vitl"), default="vitb")
    parser.add_argument("--warm", type=int, default=3, help="short runs before the timed ones")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--generations", type=int, default=5, help="repeats of generation; 0 leaves it out")
    parser.add_argument("--no-agreement", action="store_true", help="leave out the tokenizers trained for it")
    parser.add_argument("--json", type=Path, default=None, help="file to write")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    settings = Settings(given.images, given.dropout, given.grid, given.model)
    size = 16 * given.grid
    print(f"{given.model} at {size} px, {given.images} images a step, dropout {given.dropout}, {device}", flush=True)
    rates = {str(dtype)[6:]: matrix_ceiling(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(
        "matrix ceiling: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()), flush=True
    )
    memory = peaks(settings, device)
    times, attention = time_all(settings, given, device)
    print(f"attention in training: {attention}")
    result: dict[str, Any] = {
        **ratios(times),
        "peak_memory_ratio": memory["mage_kit, live"]
        / min(memory["published, float32"], memory["published, bfloat16"]),
        "peak_bytes": memory,
        "matrix_ceiling": rates,
        "share_of_ceiling": {},
        "seconds": times,
        "settings": {**vars(given), "json": None, "ratio": Bench.RATIO, "steps": Bench.STEPS},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    if not given.no_agreement:
        result["agreement_of"] = agreements(device)
        result["token_agreement"] = min(result["agreement_of"].values())
    report(result, settings)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
