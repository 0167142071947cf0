"""The paper's tables on embedded data: every study over its seeds, what decides first, and docs/paper.md from it.

python -m benchmarks.studies [--scale digits|pictograms] [--out runs/studies] [--only NAME ...] [--seeds N] [--page]

Some ten hours on two cores for all, resumable at any point: each training's figures are a small JSON in
benchmarks/results/studies/runs, which another machine goes on from. Rows, contrasts and seeds stand in the studies'
files before anything runs; every training that ran is in the page, whichever way it fell. The page is written at the
end; --page writes it from what was run so far, and runs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mage_kernels import keep_freed_memory

from benchmarks.studies_page import SCALES, write_page
from mage_kit.base.progress import Reporter
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.run_study import run_study
from mage_kit.studies.study_files import load_study, study_names
from mage_kit.studies.study_results import result_file

FIRST = ("main-6", "supp-3", "supp-4", "main-5b", "supp-9", "supp-7")  # what the page must have
RESULTS = Path(__file__).parent / "results" / "studies"


def order(scale: str) -> list[str]:
    """Return every study of a scale, what must be there first, then what has the fewest rows."""
    studies = {name: load_study(name) for name in study_names()}
    able = [name for name, study in studies.items() if scale in study.scales]
    rest = sorted((name for name in able if name not in FIRST), key=lambda name: len(studies[name].rows))
    return [*FIRST, *rest]


def main() -> None:
    """Run what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0], help="embedded data to run on")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="trainings and tables")
    parser.add_argument("--only", nargs="+", default=None, help="studies by name")
    parser.add_argument("--seeds", type=int, default=None, help="instead of each study's own")
    parser.add_argument("--page", action="store_true", help="write the page from what was run, run nothing")
    arguments = parser.parse_args()
    scale, names = arguments.scale, order(arguments.scale)
    if unknown := [name for name in arguments.only or [] if name not in names]:
        parser.error(f"--only {unknown[0]}: must be one of {', '.join(names)}")
    keep_freed_memory()
    reporter, store = Reporter(), FigureStore(RESULTS / "runs")
    for name in [] if arguments.page else [each for each in names if each in (arguments.only or names)]:
        study = load_study(name)
        seeds = None if arguments.seeds is None else range(arguments.seeds)
        reporter.say(f"study {name}: {study.title}")
        result = run_study(study, scale, arguments.out, seeds=seeds, store=store, reporter=reporter)
        result.write(result_file(study, scale, RESULTS))
    reporter.say(f"written: {write_page(RESULTS)}")


if __name__ == "__main__":
    main()
