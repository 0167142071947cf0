"""Everything that wants a GPU, in one command: kernel tests on it, ceilings, all operations, end to end; JSON out.

    python -m benchmarks.gpu [--out benchmarks/results] [--images 64]

Under eight minutes on one H200. Without a GPU it says so and stops.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import cases
from benchmarks.sides import Settings
from benchmarks.table import Row, finished, measure_ceilings, row, write
from benchmarks.timing import timed

ROOT = Path(__file__).parent.parent
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
        "tests/test_triton.py",
        "tests/test_kernels.py",
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


def verdicts(lines: list[Row]) -> list[str]:
    """Say of each allowance whether it holds."""
    said = []
    for (operation, size), allowed in ALLOWED.items():
        for line in lines:
            if (line.operation, line.size, line.form) == (operation, size, "triton"):
                word = "holds" if line.seconds * 1e6 <= allowed else "DOES NOT HOLD"
                said.append(f"{operation} {size}: {line.seconds * 1e6:.1f} us, allowed {allowed} us: {word}")
    return said


def end_to_end(settings: Settings, out: Path) -> dict[str, Any]:
    """Run the end-to-end comparison in a process of its own."""
    words = ["--model", settings.model, "--images", str(settings.images), "--no-agreement", "--json", str(out)]
    words += ["--generations", "3", "--repeats", "5", "--warm", "2"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.end_to_end", *words], cwd=ROOT, text=True)
    return dict(json.loads(out.read_text())) if done.returncode == 0 else {"exit_code": done.returncode}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--images", type=int, default=64, help="images in a training step, end to end")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU that torch can use: nothing measured", file=sys.stderr)
        raise SystemExit(2)
    device = torch.device("cuda")
    gpu = torch.cuda.get_device_name()
    name = f"{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}-{datetime.date.today().isoformat()}.json"
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver()}
    target = given.out / name
    result["tests"] = kernel_tests()
    lines, ceilings, failed = operations(device)
    write(lines, ceilings, print)
    result |= {"ceilings": ceilings, "operations": [asdict(line) for line in lines], "failed": failed}
    result["verdicts"] = verdicts(lines)
    print("\n".join(result["verdicts"]), flush=True)
    target.write_text(json.dumps(result, indent=2) + "\n")  # what was measured stays, whatever comes
    result["end_to_end"] = {}
    for model in ("vitl", "vitb"):
        found = end_to_end(Settings(given.images, 0.1, model=model), given.out / "part.json")
        result["end_to_end"][model] = found
        target.write_text(json.dumps(result, indent=2) + "\n")
    (given.out / "part.json").unlink(missing_ok=True)
    print(f"written: {target}")


def driver() -> str:
    """The driver's version, as its own tool says."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
