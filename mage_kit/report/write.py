"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.errors import MageKitError, MissingExtraError
from mage_kit.base.files import read_json, write_text
from mage_kit.base.machine import machine
from mage_kit.base.progress import Reporter
from mage_kit.base.version import __version__
from mage_kit.models.mage import Mage
from mage_kit.recipes.answers import credit_of, kind_of, task_of
from mage_kit.recipes.recipe import Recipe
from mage_kit.report import content, views
from mage_kit.report.charts import classifier_charts, ratio_chart, schedule_chart, training_charts
from mage_kit.report.classifier_page import predictions
from mage_kit.report.content import Part
from mage_kit.report.evaluations import evaluations
from mage_kit.report.own_images import some_stills, stills_of
from mage_kit.report.tokenizer_page import codebook, tokenizer_parts
from mage_kit.store.folders import MODEL_FILE, TOKENIZER_FOLDER, best_device, require_folder
from mage_kit.store.loading import load
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import TASKS
from mage_kit.training.weight_folders import read_tokenizer_card

REPORT_FILE = "report.html"
_TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True)
class Page:
    """What the template is given.

    Args:
        title: Name of the run.
        state: Whether it is complete, in a sentence.
        stamp: When and with what the page was written.
        figures: (value, what) shown large at the top.
        parts: The sections, in order.
        recipe: The recipe as JSON text.
        credit: Whose the images are, where that must stand beside them.
    """

    title: str
    state: str
    stamp: str
    figures: list[tuple[str, str]]
    parts: list[Part]
    recipe: str
    credit: str


def write_report(
    run: Path,
    out: Path | None = None,
    *,
    mae: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write a run's report.

    Args:
        run: Run folder; one that has not ended yet gives a page of what there is by now.
        out: File; None for report.html in the run folder.
        mae: Run folder of another model, whose reconstructions stand beside (paper, figure 2).
        overwrite: Replace an earlier page.
        reporter: Where progress goes.

    Returns:
        The file.

    Raises:
        MageKitError: If there is no run, or the file exists.
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    reporter = reporter or Reporter()
    environment = _environment()  # what is missing shows before any work
    require_folder(run)
    target = out or run / REPORT_FILE
    if target.exists() and not overwrite:
        raise MageKitError(f"out: '{target}', exists; choose another or give --overwrite")
    records = read_metrics(run)
    recipe = content.any_recipe_of(run)
    if kind_of(recipe) == "classifier":
        if mae is not None:
            raise MageKitError(f"mae: '{mae}', stands beside reconstructions, and a classifier has none")
        page = _classifier_page(run, recipe, records, reporter)
    elif kind_of(recipe) == "tokenizer":
        if mae is not None:
            raise MageKitError(f"mae: '{mae}', stands beside a model's reconstructions, and a tokenizer has none")
        page = _tokenizer_page(run, recipe, records, reporter)
    else:
        others = {} if mae is None else {f"{content.recipe_of(mae).name} ({mae})": load(mae, best_device())}
        page = _gather(run, recipe, records, others, reporter)
    write_text(target, environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(page=page))
    return target


def _gather(
    run: Path, recipe: Recipe, records: list[dict[str, Any]], others: dict[str, Mage], reporter: Reporter
) -> Page:
    complete, last, state = _state(run, recipe, records)
    parts = [
        Part("Curves", "" if records else "Nothing has been logged.", charts=training_charts(records)),
        content.metrics(run),
        *evaluations(run),
    ]
    if complete:
        parts += _looks(run, recipe, others, reporter)
    parts += [_schedules(recipe), _settings(run)]
    return Page(
        title=recipe.name,
        state=state,
        stamp=_stamp(),
        figures=_headline(last),
        parts=[part for part in parts if part.note or part.pictures or part.charts or part.rows],
        recipe=recipe.to_json(),
        credit=credit_of(recipe),
    )


def _classifier_page(run: Path, recipe: Recipe, records: list[dict[str, Any]], reporter: Reporter) -> Page:
    complete, last, state = _state(run, recipe, records)
    figures = [] if last is None else _headline({**last, "accuracy": None})
    validations = [record for record in records if record["stage"] == "validation"]
    if validations:
        figures.insert(0, (f"{validations[-1]['top1']:.1%}", "validation top-1"))
    charts = classifier_charts(records, stage_of(recipe))
    return Page(
        title=recipe.name,
        state=state,
        stamp=_stamp(),
        figures=figures,
        parts=[
            Part("Curves", "" if records else "Nothing has been logged.", charts=charts),
            *evaluations(run),
            *(predictions(run, recipe, reporter) if complete else []),
            _settings(run),
        ],
        recipe=recipe.to_json(),
        credit=credit_of(recipe),
    )


def _tokenizer_page(run: Path, recipe: Recipe, records: list[dict[str, Any]], reporter: Reporter) -> Page:
    complete, last, state = _state(run, recipe, records)
    return Page(
        title=recipe.name,
        state=state,
        stamp=_stamp(),
        figures=_headline(last),
        parts=[
            Part("Curves", "" if records else "Nothing has been logged.", charts=training_charts(records)),
            *evaluations(run),
            *(tokenizer_parts(run, recipe, reporter) if complete else []),
            _settings(run),
        ],
        recipe=recipe.to_json(),
        credit=credit_of(recipe),
    )


def _state(run: Path, recipe: Recipe, records: list[dict[str, Any]]) -> tuple[bool, dict[str, Any] | None, str]:
    """Return whether a run is complete, the last record of what it is for, and both in a sentence."""
    stage = stage_of(recipe)
    alone = kind_of(recipe) == "tokenizer"
    is_trained = alone and bool(read_tokenizer_card(run / TOKENIZER_FOLDER).get("fingerprint"))
    complete = is_trained or (run / MODEL_FILE).is_file()
    last = next((record for record in reversed(records) if record["stage"] == stage), None)
    step = "nothing logged yet" if last is None else f"step {last['step']}, epoch {last['epoch']:.1f}"
    return complete, last, f"complete: {step}" if complete else f"training has not ended: {step}"


def stage_of(recipe: Recipe) -> str:
    """Return the stage under which what a recipe is for stands in the log: that of its task."""
    task = task_of(recipe)
    return "model" if task is None else TASKS.get(task).cls.stage


def _stamp() -> str:
    return f"written {datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by mage_kit {__version__}"


def _looks(run: Path, recipe: Recipe, others: dict[str, Mage], reporter: Reporter) -> list[Part]:
    """Pictures: samples, reconstructions, codebook."""
    model = load(run, best_device())
    with reporter.task("samples", 2) as task:
        parts = [content.samples(run, model, task)]
    dataset, why = stills_of(run, recipe)
    if dataset is None:
        return [*parts, Part("Reconstruction", f"None: the run's data cannot be opened here ({why}).")]
    pictures = some_stills(dataset, views.IMAGES)
    reporter.say("reconstructions")
    if model.generates or model.predicts_values:
        parts.append(views.reconstructions({recipe.name: model, **others}, pictures, "Images of the run's own data"))
    if model.generates:
        parts.append(views.inpaintings(model, pictures))
    if model.tokenizer.spec.discrete:
        with reporter.task("codes of images", min(512, len(dataset))) as task:
            parts.append(codebook(model.tokenizer, dataset, task))
    return parts


def _schedules(recipe: Recipe) -> Part:
    with torch.device("meta"):
        model = recipe.build_model()
    charts = [ratio_chart(model.mask_ratio)] if model.mask_ratio.high else []
    if model.generates:
        charts.append(schedule_chart(model.decoding.schedule, model.spec.grid.size, model.decoding.steps))
    return Part("Masks", "What training draws, and what decoding follows." if charts else "", charts=charts)


def _settings(run: Path) -> Part:
    rows = []
    if (run / "decisions.json").is_file():
        for name, item in read_json(run / "decisions.json").items():
            rows.append((name.replace("_", " "), f"{item['value']}: {item['reason']}"))
    if (run / "data.json").is_file():
        data = read_json(run / "data.json")
        rows += [(f"data: {name}", _short(value)) for name, value in data.items()]
    rows += machine(best_device())
    return Part("Settings and versions", "What was decided at the run's start, its data, and this machine.", rows=rows)


def _headline(last: dict[str, Any] | None) -> list[tuple[str, str]]:
    if last is None:
        return []
    figures = []
    if "loss" in last:
        chance = f"loss (chance {last['chance']:.2f})" if "chance" in last else "loss"
        figures.append((f"{last['loss']:.3f}", chance))
    if last.get("accuracy") is not None:
        figures.append((f"{last['accuracy']:.1%}", "accuracy on masked tokens"))
    if "images_per_s" in last:
        figures.append((f"{last['images_per_s']:,.0f}", "images a second"))
    if "peak_memory_gib" in last:
        figures.append((f"{last['peak_memory_gib']:.2f} GiB", "peak memory"))
    return figures


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _environment() -> Any:
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MissingExtraError("report", "report") from None
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
