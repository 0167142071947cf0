"""Everything that wants a GPU, in one command: kernel tests on it, ceilings, all operations, end to end; JSON out.

    python -m benchmarks.gpu [--out benchmarks/results] [--images 64]

Under eight minutes on one H200. Without a GPU it says so and stops. Needs torch and triton; the tests and the
end-to-end part need what mage_kit needs (einops, pydantic) and lightning-fabric, and are left out, and named, without
them. The exit code is 1 if anything failed, was left out or does not hold.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import cases
from benchmarks.table import Row, finished, measure_ceilings, row, write
from benchmarks.timing import timed

ROOT = Path(__file__).parent.parent
NEEDED = ("einops", "pydantic", "safetensors", "rich", "typer", "lightning_fabric")
# From the kernels' design: what an operation is allowed to take on an H200, in microseconds.
ALLOWED = {
    ("embed", "vitl_encoder"): 30,
    ("pad", "vitb_decoder"): 60,
    ("decode_step", "vitb_generation"): 20,
}


def kernel_tests() -> dict[str, Any]:
    """Run the kernels' tests on the device; what pytest said at the end."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/kernels/test_triton.py",
        "tests/kernels/test_kernels.py",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-4000:], flush=True)
    return {"exit_code": done.returncode, "summary": (done.stdout.strip().splitlines() or ["no output"])[-1]}


def operations(device: torch.device) -> tuple[list[Row], dict[str, float], list[str]]:
    """Check and time every case; the lines, the ceilings and what failed its check."""
    before, lines, failed = measure_ceilings(device), [], []
    for case in cases(device):
        try:
            case.check()
            runs = [case.fresh() for _ in range(3)]
            lines.append(row(case, timed(runs, device, warm=25, repeats=100)))
        except Exception as error:  # one broken form must not cost the other results
            failed.append(f"{case.name}: {type(error).__name__}: {error}")
            print(f"  FAILED {failed[-1]}", flush=True)
        torch.cuda.empty_cache()
    ceilings = measure_ceilings(device, before)
    return finished(lines, ceilings), ceilings, failed


def verdicts(lines: list[Row], whole: dict[str, Any]) -> list[str]:
    """Say of each demand whether it holds; what was not measured does not."""
    said = []
    for (operation, size), allowed in ALLOWED.items():
        times = {line.form: line.seconds * 1e6 for line in lines if (line.operation, line.size) == (operation, size)}
        found = [times["triton"]] if "triton" in times else []
        said.append(verdict(f"{operation} {size}, us", found, lambda value, allowed=allowed: value <= allowed, allowed))
    for size in ("vitb_encoder", "vitb_decoder", "vitl_encoder", "vitl_decoder"):
        times = {line.form: line.seconds for line in lines if (line.operation, line.size) == ("attention+grad", size)}
        kernels = [times[form] for form in times if form.startswith("sdpa_")]
        ours = [times[form] for form in ("sdpa", "xformers") if form in times]
        best = min(times, key=lambda form: times[form]) if times else "none"
        ratio = [min(kernels) / min(ours)] if kernels and ours else []
        name = f"attention {size} over SDPA's best kernel (fastest: {best})"
        said.append(verdict(name, ratio, lambda value: value >= 0.97, 1))
    large = whole.get("vitl", {})
    for name, key, least in (
        ("ViT-L step, same precision", "step_ratio_live_same_precision", 4),
        ("ViT-L generation, same precision", "generation_ratio_same_precision", 8),
    ):
        said.append(verdict(name, [large[key]] if key in large else [], lambda v, least=least: v >= least, least))
    share = large.get("share_of_ceiling", {}).get("step: mage_kit, cached")
    said.append(verdict("ViT-L step, share of the matrix ceiling", [share] if share else [], lambda v: v >= 0.45, 0.45))
    return said


def verdict(name: str, found: list[float], holds: Callable[[float], bool], demand: float) -> str:
    """One line."""
    if not found:
        return f"{name}: NOT MEASURED (demand {demand:g})"
    return f"{name}: {found[0]:.3g} (demand {demand:g}): {'holds' if holds(found[0]) else 'DOES NOT HOLD'}"


def end_to_end(model: str, images: int, out: Path) -> dict[str, Any]:
    """Run the end-to-end comparison in a process of its own."""
    words = ["--model", model, "--images", str(images), "--no-agreement", "--json", str(out)]
    words += ["--generations", "3", "--repeats", "5", "--warm", "2"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.end_to_end", *words], cwd=ROOT, text=True)
    return dict(json.loads(out.read_text())) if done.returncode == 0 else {"exit_code": done.returncode}


def main() -> None:
    """Measure and write, stage by stage: what was measured stays, whatever comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=int, default=64, help="images in a training step, end to end")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing measured", file=sys.stderr)
        raise SystemExit(2)
    device, gpu = torch.device("cuda"), torch.cuda.get_device_name()
    name = f"{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}-{datetime.date.today().isoformat()}.json"
    given.out.mkdir(parents=True, exist_ok=True)
    target, part = given.out / name, given.out / "part.json"
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    result: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver()}
    result |= {"missing": missing, "tests": {}, "end_to_end": {}}

    def keep() -> None:
        target.write_text(json.dumps(result, indent=2) + "\n")

    if missing:
        print(f"left out for want of {', '.join(missing)}: tests, end to end", flush=True)
    else:
        result["tests"] = kernel_tests()
    keep()
    lines, ceilings, failed = operations(device)
    write(lines, ceilings, print)
    result |= {"ceilings": ceilings, "operations": [asdict(line) for line in lines], "failed": failed}
    keep()
    for model in () if missing else ("vitl", "vitb"):
        result["end_to_end"][model] = end_to_end(model, given.images, part)
        keep()
    part.unlink(missing_ok=True)
    result["verdicts"] = verdicts(lines, result["end_to_end"])
    keep()
    print("\n".join(result["verdicts"]), f"written: {target}", sep="\n")
    bad = (
        missing or failed or result["tests"].get("exit_code") or any("holds" not in line for line in result["verdicts"])
    )
    raise SystemExit(1 if bad else 0)


def driver() -> str:
    """The driver's version, as its own tool says."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
