"""docs/paper.md from the studies and what was run of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mage_kit.base.files import write_text
from mage_kit.planning import Machine, estimate
from mage_kit.planning.estimate import IMAGENET
from mage_kit.recipes.answers import has_place
from mage_kit.recipes.workload import workload
from mage_kit.studies.comparison_table import number, problems, table_of
from mage_kit.studies.study import Study
from mage_kit.studies.study_files import load_study, study_names
from mage_kit.studies.study_results import StudyResult, read_study_result
from mage_kit.studies.study_trials import recipe_of

PAGE = Path(__file__).parents[1] / "docs" / "paper.md"
REMARKS = "remarks"  # a folder beside the results, NAME.md a study: words of people
SCALES = ("digits", "pictograms")
_VALIDATION = "training.validation.path"
_HEAD = """# The paper on one page

Each table of the paper and its supplement that varies something, as a study: what the paper finds, its numbers,
ours on embedded data over seeds, a verdict on each contrast, what it would cost on ImageNet by `mage-kit plan` (8 GPUs
of 400 TFLOP/s at 35%), and the command. This page is written by `python -m benchmarks.studies`; how to read it:
[sweeps.md](sweeps.md).

Embedded data are 1,797 handwritten digits, 16 tokens each, and some 2,000 colour pictograms, 64 tokens each. Our
columns say whether a direction shows on something so small; they are not the paper's measures, and are never
comparable with its numbers. Features are measured by a logistic regression (of digits over folds, of pictograms on the
part that no training saw), images by a Fréchet distance (of digits by a small classifier's features, of pictograms by
an installed network's).
"""


def write_page(results: Path) -> Path:
    """Write the page from what was run, at every scale; return it.

    Args:
        results: Folder of results, and of remarks on them.
    """
    parts = [_HEAD]
    for name in study_names():
        study = load_study(name)
        done = [read_study_result(study, scale, results) for scale in SCALES if scale in study.scales]
        remark = results / REMARKS / f"{name}.md"
        words = remark.read_text(encoding="utf-8") if remark.is_file() else ""
        parts.append(_section(study, [result for result in done if result is not None], words))
    write_text(PAGE, "\n".join(parts))
    return PAGE


def _section(study: Study, done: Sequence[StudyResult], words: str) -> str:
    lines = [
        f"## {study.name}: {study.title}",
        "",
        f"{study.table}; {study.conditions}. The paper: {study.finding}",
        "",
        _paper(study),
        "",
    ]
    for result in done:
        lines += _figures(result)
    if not done:
        lines += [
            "Not run on embedded data." if set(SCALES) & set(study.scales) else "At full size alone: not run.",
            "",
        ]
    lines += [words, ""] if words else []
    lines += [f"On ImageNet: {_cost(study)}.", "", "```"]
    command = f"mage-kit study run {study.name} --scale"
    lines += [f"{command} {scale} --seeds 3" for scale in SCALES if scale in study.scales]
    lines += [f"{command} imagenet {_options(study)}", "```", ""]
    return "\n".join(lines)


def _options(study: Study) -> str:
    """What a run on ImageNet has to be told."""
    needs = {source.measure for measure in study.measures if (source := measure.at.get("imagenet"))}
    recipes = [recipe_of(study, row.name, "imagenet")(0) for row in study.able_rows("imagenet")]
    words = ["--set data.path=IMAGENET/train --set tokenizer.weights=TOKENIZER"]
    if any(has_place(recipe, _VALIDATION) for recipe in recipes):
        words.append(f"--set {_VALIDATION}=IMAGENET/val")
    if "fid" in needs:
        words.append("--option fid.extractor=FILE --option fid.reference=FILE")
    words += [f"--option {name}.data=IMAGENET" for name in ("probe", "fewshot") if name in needs]
    return " ".join(words)


def _paper(study: Study) -> str:
    heads = ["the paper", *(f"{measure.name}: {measure.paper}" for measure in study.measures)]
    body = []
    for row in study.rows:
        numbers = ["-" if (value := row.paper.get(m.name)) is None else f"{value:g}" for m in study.measures]
        body.append([row.name, *numbers])
    return _markdown(heads, body)


def _figures(result: StudyResult) -> list[str]:
    comparison = result.comparison
    heads, body = table_of(comparison)
    lines = [
        f"On {result.scale}, seeds {', '.join(map(str, comparison.seeds))} ({result.date}):",
        "",
        _markdown(["here", *heads[1:]], body),
        "",
    ]
    verdicts = [
        [f"{v.contrast.measure}: {v.contrast.better} ahead of {v.contrast.worse}" + (" (decides)" * v.contrast.decides),
         v.way, "-" if v.difference is None else number(v.difference, sign=True)]
        for v in result.verdicts
    ]  # fmt: skip
    lines += [_markdown(["the paper has it", "here", "difference"], verdicts), ""]
    lines += [f"- {problem}" for problem in problems(comparison)]
    reasons = {row.name: row.reason(result.scale) for row in result.study.rows}
    lines += [f"- {name}: not run, {reason}" for name, reason in reasons.items() if reason]
    lines += [f"- {name}: settings have changed since" for name in result.outdated]
    return [*lines, ""]


def _cost(study: Study) -> str:
    days = []
    for row in study.able_rows("imagenet"):
        try:
            days.append(estimate(workload(recipe_of(study, row.name, "imagenet")(0)), Machine(), IMAGENET).days)
        except ValueError:
            continue  # a task that the planner does not know
    return (
        f"{sum(days):.0f} days of 8 GPUs for a seed of the {len(days)} rows that the planner counts, the tokenizer's "
        "training and the measures not among them"
    )


def _markdown(heads: list[str], body: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
