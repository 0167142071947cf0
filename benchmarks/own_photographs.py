"""What the README promises of a folder of photographs: the shipped recipe, by its one command, timed and audited.

python -m benchmarks.own_photographs [--out runs/own_photographs] [--crops runs/tokenizers/crops]
                                     [--results benchmarks/results/own_photographs.json]

Two hundred photographs of photograph_crops.py, of either side, are written as JPEG into a flat folder, as they come
from a camera or a web page; the command trains on nine tenths of them and judges on the rest, both chosen by the
recipe. Some nine minutes on two cores; another run is never gone on with, since its time would say nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.photograph_crops import write_crops
from mage_kit.base.files import read_json, write_json
from mage_kit.store.run_folders import AUDIT_FILE

COUNT, QUALITY = 200, 92
HOME = Path(__file__).parent / "results" / "own_photographs.json"


def write_photographs(crops: Path, folder: Path) -> list[tuple[int, int]]:
    """Write the photographs as JPEG; return their sizes (width, height)."""
    folder.mkdir(parents=True)
    sizes = []
    for path in sorted((crops / "photographs").glob("*/*.png"))[:COUNT]:
        with Image.open(path) as photograph:
            photograph.save(folder / f"{path.stem}.jpg", quality=QUALITY)
            sizes.append(photograph.size)
    return sizes


def measure(photographs: Path, run: Path) -> dict[str, Any]:
    """Run the command; return its seconds and what its audit says."""
    command = [sys.executable, "-m", "mage_kit", "train", "vqgan_photos", "--out", str(run)]
    start = time.monotonic()
    subprocess.run([*command, "--set", f"data.path={photographs}"], check=True)
    seconds = time.monotonic() - start
    return {"seconds": round(seconds, 1), **read_json(run / AUDIT_FILE)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/own_photographs"), help="a new folder")
    parser.add_argument("--crops", type=Path, default=Path("runs/tokenizers/crops"), help="written where absent")
    parser.add_argument("--results", type=Path, default=HOME, help="the figures, as JSON")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out {arguments.out}: is there already; must be a new folder")
    facts = write_crops(arguments.crops)
    sizes = write_photographs(arguments.crops, arguments.out / "photographs")
    if len(sizes) < COUNT:
        parser.error(f"{facts['package']} has {len(sizes)} photographs, must be {COUNT}: install gcompris-qt-data")
    figures = {
        "date": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__,
        "photographs": len(sizes), "short_sides": [min(map(min, sizes)), max(map(min, sizes))],
        **measure(arguments.out / "photographs", arguments.out / "run"),
    }  # fmt: skip
    write_json(arguments.results, figures)
    print(f"written: {arguments.results}")


if __name__ == "__main__":
    main()
