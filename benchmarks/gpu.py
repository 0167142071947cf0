"""Everything that wants a GPU, in one command: kernel tests on it, ceilings, all operations, end to end; JSON out.

    python -m benchmarks.gpu [--out FOLDER] [--images 64] [--compare OLD.json]
    python -m benchmarks.gpu --dry-run

Under eight minutes on one H100 or H200. Each part is a process of its own with a limit: one that fails or runs too
long is a line of the result, and the others' figures are in the file all the same. A machine that lacks packages says
how to bring them. The result is FOLDER/<gpu>-<date>.json, in benchmarks/results unless another folder is named, with a
number where that is taken. `--dry-run` prints every command, read by its own parser; `--toy` runs all of it on a CPU,
small, some four minutes, into a folder of its own.

The exit code is 1 if a part failed or was left out, 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.differences import differences
from benchmarks.gpu_parts import Part, parts, verdicts
from benchmarks.part_command import positive

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CARRY = (
    "pip download --dest wheels --only-binary=:all: {packages} where there is a network, "
    "then pip install --no-index --find-links wheels {packages} here"
)


def run(part: Part, file: Path) -> dict[str, Any]:
    """Run one part; return how it ended and, where it wrote a file, what is in it.

    Args:
        part: The part.
        file: That it may write.
    """
    begin, tail = time.monotonic(), ""
    command = [sys.executable, *part.command(file)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    # A session of its own: what the part starts ends with it, and holds no memory beside the next part.
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams) as child:  # type: ignore[call-overload]  # of a dictionary mypy knows no types
        try:
            tail = child.communicate(timeout=part.limit)[0]
            outcome = {"exit_code": child.returncode}
        except subprocess.TimeoutExpired:
            outcome = {"exit_code": None, "stopped_after": part.limit}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        tail = tail or child.communicate()[0]
    print(tail[-4000:], flush=True)
    record: dict[str, Any] = {**outcome, "seconds": round(time.monotonic() - begin, 1)}
    if file.is_file():
        try:
            record["result"] = json.loads(file.read_text())
        except ValueError as error:  # stopped while it wrote
            record["unreadable"] = f"its result cannot be read ({error})"
    if outcome["exit_code"] != 0 or not part.writes:
        record["last_words"] = tail.strip().splitlines()[-5:]
    return record


def measure(queue: Sequence[Part], target: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Run the parts in turn and write after each; return all of it.

    Args:
        queue: The parts.
        target: File of the result.
        about: What stands at its head.
    """
    result: dict[str, Any] = {**about, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(queue):
            print(f"{part.name}, {part.limit:g} s at most", flush=True)
            missing = [package for package in part.needs if importlib.util.find_spec(package) is None]
            if missing:
                record: dict[str, Any] = {"left_out": f"for want of {', '.join(missing)}"}
                print(f"  left out {record['left_out']}: {CARRY.format(packages=' '.join(missing))}", flush=True)
            else:
                record = run(part, Path(folder) / f"{number}.json")
            result["parts"][part.name] = record
            target.write_text(json.dumps(result, indent=2) + "\n")
    written = {name: record["result"] for name, record in result["parts"].items() if "result" in record}
    result["verdicts"] = list(verdicts(written))
    target.write_text(json.dumps(result, indent=2) + "\n")
    return result


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=None, help="folder of the result")
    words.add_argument("--images", type=positive, default=64, help="images in a training step, end to end")
    words.add_argument("--compare", type=Path, default=None, help="an earlier result: print what changed")
    words.add_argument("--dry-run", action="store_true", help="print the commands, read by their own parsers")
    words.add_argument("--toy", action="store_true", help="small, on a CPU too: to see that it runs")
    return words


def arguments() -> tuple[argparse.Namespace, Any]:
    """Read the command line, and the earlier result that it names; leave with a sentence if they cannot be used."""
    words = parser()
    options = words.parse_args()
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        words.error(f"--out {options.out}: is a file, must be a folder")
    before = None
    if options.compare is not None:
        try:
            before = json.loads(options.compare.read_text())
        except OSError as error:
            words.error(f"--compare {options.compare}: cannot be read ({error.strerror})")
        except ValueError:
            words.error(f"--compare {options.compare}: must be JSON, a result of this command")
        if not isinstance(before, dict) or not isinstance(before.get("parts"), dict):
            words.error(f"--compare {options.compare}: must be a result of this command, holds no parts")
    return options, before


def result_file(folder: Path, device: str) -> Path:
    """Return a path that is free: an earlier result of the same day stays."""
    stem = f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}-{datetime.date.today().isoformat()}"
    free = (folder / f"{stem}{f'-{number}' if number > 1 else ''}.json" for number in itertools.count(1))
    return next(path for path in free if not path.exists())


def main() -> None:
    """Measure and write, part by part: what was measured stays, whatever comes."""
    options, before = arguments()
    queue = parts(2 if options.toy else options.images, options.toy)
    if options.dry_run:
        for part in queue:
            part.check(Path("part.json"))
            print(f"{part.limit:4g} s  python {shlex.join(part.command(Path('part.json')))}")
        return
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.toy:
        print("no GPU that torch can use: nothing measured", file=sys.stderr)
        raise SystemExit(2)
    name = torch.cuda.get_device_name() if has_gpu else "cpu toy"
    out = options.out or (Path(tempfile.mkdtemp(prefix="benchmark-")) if options.toy else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    target = result_file(out, name)
    about = {"gpu": name, "torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver()}
    result = measure(queue, target, about)
    print("\n".join(result["verdicts"]), f"written: {target}", sep="\n")
    if before is not None:
        print(f"since {options.compare}:", *differences(before, result), sep="\n  ")
    raise SystemExit(any(record.get("exit_code") != 0 for record in result["parts"].values()))


def driver() -> str:
    """Return the driver's version, as its own tool says."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
