"""What was measured of a run, RUN/eval/*.json, as tables and charts of its report."""

from __future__ import annotations

from pathlib import Path

from mage_kit.evaluation.measures import MEASURES, Figure
from mage_kit.evaluation.stored_results import ask, figures_of, read_result, result_files
from mage_kit.images.image_files import open_image
from mage_kit.report.charts import series_chart
from mage_kit.report.content import Part, picture


def evaluations(run: Path) -> list[Part]:
    """Return a section for each result that there is, in the order of the registered measures.

    Raises:
        MageKitError: If a file holds no result.
    """
    files = result_files(run)
    order = {kind: number for number, kind in enumerate(MEASURES.kinds())}
    parts = [(order.get(read_result(file)[1]["measure"], len(order)), file.name, _part(file)) for file in files]
    return [part for _, _, part in sorted(parts, key=lambda each: each[:2])]


def _part(file: Path) -> Part:
    measure, result = read_result(file)
    note = ask(measure, "note", result)
    data = f" Data: {result['data']}." if "data" in result else ""
    part = Part(ask(measure, "heading", result), f"{note}.{data}" if note else data.strip())
    part.rows = [
        (f"{figure.of}: {figure.name}".replace("_", " "), _text(figure))
        for figure in figures_of(measure, result, str(file))
    ]
    curves = ask(measure, "curves", result)
    if curves is not None:
        part.charts.append(series_chart(curves.title, curves.across, dict(curves.points)))
    plot = file.with_suffix(".png")
    if measure.caption and plot.is_file():
        with open_image(plot) as image:
            part.pictures.append(picture(image, measure.caption))
    return part


def _text(figure: Figure) -> str:
    if figure.value.is_integer() and abs(figure.value) >= 2 and figure.std is None:
        return f"{figure.value:,.0f}"
    deviation = "" if figure.std is None else f" ± {figure.std:.2g}"
    return f"{figure.value:.4g}{deviation}"
