"""How good a run is: its representation, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import is_first
from mage_kit.cli.app import OverwriteOption, RunArgument, SetOption, app, console
from mage_kit.cli.decoding_options import Weights, WeightsOption
from mage_kit.cli.groups import grouped
from mage_kit.cli.processes import ProcessesOption, spread_out
from mage_kit.cli.subject_options import BaselineOption, FeatureOptions, SourceOption, SubjectOptions

if TYPE_CHECKING:
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.feature_sources import FeatureSource
    from mage_kit.evaluation.subject import Subject

evaluate = typer.Typer(
    help="Measure a run; results go to RUN/eval/NAME.json, and none is replaced unasked.", no_args_is_help=True
)
app.add_typer(evaluate, name="eval")


@evaluate.command("probe-fast")
@grouped
def probe_fast(
    run: RunArgument,
    options: FeatureOptions,
    source: SourceOption = None,
    baselines: BaselineOption = True,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Linear probe on cached features beside raw pixels and the untrained encoder; without --data over folds of the
    run's own images."""
    from mage_kit.evaluation.probe import probe_run
    from mage_kit.evaluation.published_probe import keep, of_run, result_file
    from mage_kit.evaluation.representation import probe_fast as measure

    sources = _sources(source)
    reporter = _start(options.processes if options.data is not None else 1)  # folds are fitted by one
    target = result_file(run, "probe-fast", options.overwrite)
    if options.data is None:
        options.refuse_for_folds(baselines)
        result = probe_run(run, reporter, sources)
        told = {**of_run(run), **{name: result.pop(name) for name in ("data", "data_sha256", "images")}}
        called = {"linear_probe": str(sources[0]), "untrained": "untrained encoder", "raw_pixels": "raw pixels"}
        told |= {"protocol": result.pop("note"), "rows": {called.get(name, name): row for name, row in result.items()}}
        measured, title = keep(target, told), "Linear probe over folds"
    else:
        measured = keep(target, measure(_subject(run, options, reporter), sources, baselines))
        title = "Linear probe, fast"
    if json_out and is_first():
        typer.echo(json.dumps(measured, indent=2))
    elif not json_out:
        _table(title, measured["rows"], measured["protocol"])


@evaluate.command()
@grouped
def probe(
    run: RunArgument,
    options: SubjectOptions,
    set_: SetOption = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Probe the untrained encoder too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a probe that was interrupted.")] = False,
) -> None:
    """Linear probe as published: LARS, 90 epochs of random crops, batch norm (supplement, Table 11)."""
    from mage_kit.evaluation.published_probe import keep, published_probe, result_file

    reporter = _start(options.processes)
    target = result_file(run, "probe", options.overwrite)
    subject = _subject(run, options, reporter)
    result = keep(
        target, published_probe(subject, set_ or [], baseline=baseline, resume=resume, overwrite=options.overwrite)
    )
    _table(
        "Linear probe, published protocol" if result["as_published"] else "Linear probe, NOT as published",
        result["rows"],
        result["protocol"],
    )
    if not baseline and is_first():
        console.print("no baseline was measured: --baseline adds the untrained encoder")


@evaluate.command()
@grouped
def blocks(run: RunArgument, options: FeatureOptions, baselines: BaselineOption = True) -> None:
    """Linear probe after each block of the encoder, with a plot (paper, Figure 6)."""
    from mage_kit.evaluation.published_probe import keep, plot, result_file
    from mage_kit.evaluation.representation import blocks as measure

    reporter = _start(options.processes)
    target = result_file(run, "blocks", options.overwrite)
    result = keep(target, measure(_subject(run, options, reporter), baselines))
    _table("Linear probe by block", result["rows"], result["protocol"])
    _say(plot(target, result, "blocks"))


@evaluate.command()
@grouped
def knn(
    run: RunArgument,
    options: FeatureOptions,
    source: SourceOption = None,
    k: Annotated[str, typer.Option("--k", help="Numbers of neighbours; the headline is 20, or else the largest.")] = (
        "5,10,20,50,100"
    ),
    baselines: BaselineOption = True,
) -> None:
    """k-NN classification by cosine similarity."""
    from mage_kit.evaluation.published_probe import keep, result_file
    from mage_kit.evaluation.representation import neighbours

    sources, counts = _sources(source), _counts("--k", k)
    reporter = _start(options.processes)
    target = result_file(run, "knn", options.overwrite)
    result = keep(target, neighbours(_subject(run, options, reporter), sources, counts, baselines))
    _table("k-NN", result["rows"], result["protocol"])


@evaluate.command()
@grouped
def fewshot(
    run: RunArgument,
    options: FeatureOptions,
    source: SourceOption = None,
    shots: Annotated[str, typer.Option(help="Labelled images of each class.")] = "1,5,10,13,25",
    draws: Annotated[int, typer.Option(min=2, help="Draws of these images at each number.")] = 5,
    baselines: BaselineOption = True,
) -> None:
    """Linear classifiers from a few labels, mean and deviation over draws, with a plot (paper, Table 3)."""
    from mage_kit.evaluation.published_probe import keep, plot, result_file
    from mage_kit.evaluation.representation import shots as measure

    sources, counts = _sources(source), _counts("--shots", shots)
    reporter = _start(options.processes)
    target = result_file(run, "fewshot", options.overwrite)
    result = keep(target, measure(_subject(run, options, reporter), sources, counts, draws, baselines))
    if is_first():
        table = Table("features", *(f"{count} a class" for count in counts), title="Few-shot, top-1")
        for name, row in result["rows"].items():
            table.add_row(
                escape(name), *(f"{each['top1']:.4f} ± {each['std']:.4f}" for each in row["by_shots"].values())
            )
        console.print(table)
        console.print(result["protocol"], markup=False)
    _say(plot(target, result, "shots"))


@evaluate.command()
@grouped
def transfer(
    run: RunArgument,
    folders: Annotated[list[Path], typer.Argument(help="Data sets: folders of class folders, or of train/ and val/.")],
    options: FeatureOptions,
    source: SourceOption = None,
    shots: Annotated[int, typer.Option(min=1, help="Labelled images of each class.")] = 25,
    draws: Annotated[int, typer.Option(min=2, help="Draws of these images.")] = 5,
) -> None:
    """Few-shot classification on other data sets, in one table (paper, Figure 5)."""
    from mage_kit.evaluation.published_probe import keep, result_file
    from mage_kit.evaluation.representation import transfer as measure

    if options.data is not None:
        raise MageKitError("--data: transfer takes its data sets as arguments")
    sources = _sources(source)
    if len(sources) > 1:
        raise MageKitError("--source: given several times, transfer takes one")
    reporter = _start(options.processes)
    target = result_file(run, "transfer", options.overwrite)
    made = measure(run, folders, sources[0], shots, draws, **options.chosen(reporter))
    result = keep(target, made)
    if is_first():
        names = ("features", "untrained encoder", "raw pixels")
        table = Table("data set", "classes", *names, title=f"Few-shot transfer, {shots} a class, top-1")
        for name, row in result["rows"].items():
            numbers = (f"{row[each]['top1']:.4f} ± {row[each]['std']:.4f}" for each in names)
            table.add_row(escape(name), str(row["classes"]), *numbers)
        console.print(table)
        console.print(result["protocol"], markup=False)


@evaluate.command()
def accuracy(
    run: RunArgument,
    data: Annotated[
        Path | None, typer.Option(help="Folder with val/, or of class folders; default the recipe's validation images.")
    ] = None,
    weights: WeightsOption = Weights.raw,
    overwrite: OverwriteOption = False,
    processes: ProcessesOption = None,
) -> None:
    """Top-1 and top-5 of a trained or converted classifier on its validation images, or on others; written to
    RUN/eval/accuracy-again.json, since training left accuracy.json."""
    from mage_kit.evaluation.accuracy import accuracy as measure
    from mage_kit.evaluation.published_probe import keep, result_file

    reporter = _start(processes)
    target = result_file(run, "accuracy-again", overwrite)
    result = keep(target, measure(run, data, weights=weights.value, reporter=reporter))
    _table("Accuracy", result["rows"], result["data"])


def _start(count: int | None) -> Reporter:
    from mage_kit.base import processes
    from mage_kit.base.progress import Reporter
    from mage_kit.store.folders import best_device

    spread_out(count)
    processes.start(best_device())
    return Reporter() if is_first() else Reporter.silent()


def _subject(run: Path, options: SubjectOptions, reporter: Reporter) -> Subject:
    from mage_kit.evaluation.subject import open_subject

    return open_subject(run, options.data, **options.chosen(reporter))


def _sources(given: list[str] | None) -> list[FeatureSource]:
    from mage_kit.evaluation.feature_sources import FeatureSource

    return [FeatureSource.parse(text) for text in dict.fromkeys(given or ["mean"])]


def _counts(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise MageKitError(f"{option}: '{text}', must be whole numbers of at least 1, as 1,5,10")
    return sorted({int(part) for part in parts})


def _table(title: str, rows: dict[str, Any], protocol: str, what: str = "features") -> None:
    if not is_first():
        return
    numbers = list(
        dict.fromkeys(name for row in rows.values() for name, value in row.items() if isinstance(value, float))
    )
    table = Table(what, *(name.replace("_", " ") for name in numbers), title=title)
    for name, row in rows.items():
        table.add_row(escape(name.replace("_", " ")), *(f"{row[each]:.4f}" if each in row else "-" for each in numbers))
    console.print(table)
    console.print(protocol, markup=False)


def _say(file: Path | None) -> None:
    if file is not None:
        console.print(f"written: {file}", markup=False, soft_wrap=True)
