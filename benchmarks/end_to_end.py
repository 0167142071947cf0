"""Pre-training step and generation of ViT-B at 256 pixels: mage_kit beside the published algorithm written plainly.

    python -m benchmarks.end_to_end [--json FILE] [--grid 32]

The sides run in turn, so that a machine that slows down slows all of them, each in a process of its own that waits
meanwhile (see workers.py); medians are printed as ratios. Weights are random: times do not depend on them. The
reference runs in float32, as published code does on a CPU, and again in the precision of ours, which our rule decides:
bfloat16 where the processor multiplies it, else float32.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceilings import matrix_ceiling
from benchmarks.part_command import positive
from benchmarks.sides import TOY, Bench, Settings, job_dtype, model_flops
from benchmarks.workers import Worker

SIDES = {  # what is timed: its name in the table, whose it is, and the order that has it done
    "step": {
        "published, float32": ("published", "step float32"),
        "published, same precision": ("published", "step same"),
        "same, memory kept": ("published_kept", "step same"),
        "mage_kit, live": ("mage_kit", "step live"),
        "mage_kit, cached": ("mage_kit", "step cached"),
    },
    "generation": {
        "published, float32": ("published", "generation float32"),
        "published, same precision": ("published", "generation same"),
        "mage_kit": ("mage_kit", "generation mage_kit"),
    },
}
Times = dict[str, dict[str, list[float]]]


def measure(workers: dict[str, Worker], task: str, warm: int, repeats: int) -> dict[str, list[float]]:
    """Time the sides of a task in turn: seconds of each repeat. Generation warms up with single steps."""
    times: dict[str, list[float]] = {name: [] for name in SIDES[task]}
    for turn in range(warm + repeats):
        for name, (side, order) in SIDES[task].items():
            if turn >= warm:
                times[name].append(workers[side].seconds(order))
            else:
                workers[side].seconds(f"{order} 1" if task == "generation" else order)
        spent = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items() if values)
        print(f"  {task}, turn {turn + 1}/{warm + repeats}: {spent or 'warm-up'}", flush=True)
    return times


def peaks(workers: dict[str, Worker]) -> dict[str, float]:
    """Peak bytes of a training step of each side, weights and optimiser included."""
    found = {}
    for name, (side, order) in SIDES["step"].items():
        found[name] = workers[side].peak(order)
        print(f"  peak memory of a step, {name}: {found[name] / 2**30:.2f} GiB", flush=True)
    return found


def time_all(settings: Settings, given: argparse.Namespace) -> tuple[Times, dict[str, float], str]:
    """Time steps and generation; seconds of each repeat, peaks, and the attention form that was chosen."""
    workers = {side: Worker(side, settings) for side in ("published", "published_kept", "mage_kit")}
    try:
        times = {"step": measure(workers, "step", given.warm, given.repeats)}
        memory = peaks(workers)
        workers.pop("published_kept").stop()
        if given.generations:
            times["generation"] = measure(workers, "generation", given.warm, given.generations)
    finally:
        for worker in workers.values():
            worker.stop()
    return times, memory, workers["mage_kit"].attention


def growth(settings: Settings, grid: int) -> dict[str, dict[str, float]]:
    """How time and memory of a step of one image grow from 16 x 16 tokens to a larger grid."""
    names = [name for name in SIDES["step"] if SIDES["step"][name][0] in ("published", "mage_kit")][1:]
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for side_length in (16, grid):
        sizes = replace(settings, images=1, grid=side_length)
        workers = {side: Worker(side, sizes) for side in ("published", "mage_kit")}
        found[side_length] = {}
        for name in names:
            side, order = SIDES["step"][name]
            seconds = [workers[side].seconds(order) for _ in range(4)][1:]
            found[side_length][name] = statistics.median(seconds), workers[side].peak(order)
        for worker in workers.values():
            worker.stop()
    print(f"\ngrowth from {16**2} to {grid**2} tokens, one image a step: time, peak memory", flush=True)
    table = {}
    for name in names:
        (seconds, size), (more, larger) = found[16][name], found[grid][name]
        table[name] = {"time": more / seconds, "memory": larger / size}
        print(f"  {name:26} {seconds:7.2f} s -> {more:7.2f} s ({more / seconds:.1f}x), {size / 2**30:.2f} GiB ->"
              f" {larger / 2**30:.2f} GiB ({larger / size:.2f}x)", flush=True)  # fmt: skip
    return table


def ratios(times: Times) -> dict[str, float]:
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
            found[f"{name}_same_precision"] = medians["published, same precision"] / medians[ours]
            if "same, memory kept" in medians:
                found[f"{name}_same_precision_and_memory"] = medians["same, memory kept"] / medians[ours]
    return found


def report(result: dict[str, Any], settings: Settings) -> None:
    """Print the table."""
    flops, rates = model_flops(settings), result["matrix_ceiling"]
    for task, table in result["seconds"].items():
        print(f"\n{task}: median, spread, ratio to the reference in float32 and in our precision, share of the ceiling")
        medians = {name: statistics.median(values) for name, values in table.items()}
        for name, seconds in medians.items():
            rate = rates["float32" if name.endswith("float32") else result["machine"]["precision"]]
            share = flops[task] if name != "mage_kit, cached" else flops["cached"]
            spread = (max(table[name]) - min(table[name])) / seconds
            print(
                f"  {name:26} {seconds:8.3f} s  ±{spread / 2:4.0%} {medians['published, float32'] / seconds:6.2f}x"
                f" {medians['published, same precision'] / seconds:6.2f}x {share / seconds / rate:5.0%}"
            )
            result["share_of_ceiling"][f"{task}: {name}"] = share / seconds / rate
    for name in ("peak_memory_ratio", "token_agreement"):
        if name in result:
            print(f"{name}: {result[name]}")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=4, help="images in a training step")
    parser.add_argument("--dropout", type=float, default=0.1, help="on both sides")
    parser.add_argument("--grid", type=int, default=16, help="tokens a side; 32 adds the growth to 512 pixels")
    parser.add_argument("--model", choices=("vitb", "vitl"), default="vitb")
    parser.add_argument("--warm", type=int, default=3, help="untimed runs first")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--generations", type=int, default=5, help="repeats of generation; 0 leaves it out")
    parser.add_argument("--no-agreement", action="store_true", help="leave out the tokenizers trained for it")
    parser.add_argument("--json", type=Path, default=None, help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the JSON file")
    parser.add_argument("--toy", action="store_true", help="a model of two narrow layers: to see that it runs")
    return parser


def arguments() -> argparse.Namespace:
    """Read the command line."""
    words = parser()
    given = words.parse_args()
    if given.json is not None and (given.json.is_dir() or (given.json.exists() and not given.overwrite)):
        words.error(f"--json {given.json}: exists; choose another or give --overwrite")
    if given.grid < 16 or given.grid % 16:
        words.error(f"--grid {given.grid}: must be a multiple of 16")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
    return given


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    made = 64 if device.type == "cuda" else 4
    settings = Settings(given.images, given.dropout, 16, given.model, made)
    if given.toy:
        settings = Settings(given.images, given.dropout, 4, given.model, 2, TOY)
    print(
        f"{given.model} at {16 * settings.grid} px, {given.images} images a step, dropout {given.dropout}, {device}",
        flush=True,
    )
    rates = {str(dtype)[6:]: matrix_ceiling(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(
        "matrix ceiling: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()), flush=True
    )
    times, memory, attention = time_all(settings, given)
    print(f"attention in training: {attention}")
    result: dict[str, Any] = {
        **ratios(times),
        "peak_memory_ratio": memory["mage_kit, live"]
        / min(memory["published, float32"], memory["published, same precision"]),
        "peak_bytes": memory,
        "matrix_ceiling": rates,
        "share_of_ceiling": {},
        "seconds": times,
        "settings": {**vars(given), "json": None, "ratio": Bench.RATIO, "steps": Bench.STEPS},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "precision": str(job_dtype(device))[6:],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    if not given.no_agreement:
        from benchmarks.agreement import agreements  # brings what training needs

        result["agreement_of"] = agreements(device)
        result["token_agreement"] = min(result["agreement_of"].values())
    report(result, settings)
    if given.grid != 16:
        result["growth"] = growth(settings, given.grid)
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; nothing is written before the end") from None
