"""A comparison as text: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

import csv
import html as escapes
import io
from collections.abc import Callable

from mage_kit.studies.comparison import Comparison
from mage_kit.studies.comparison_table import legend, problems, table_of


def markdown(comparison: Comparison) -> str:
    """Return a table in Markdown, with its legend and what failed."""
    heads, body = table_of(comparison)
    lines = [heads, ["---"] * len(heads), *body]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    failed = "".join(f"\n- {line}" for line in problems(comparison))
    return f"**{comparison.title}**\n\n{table}\n\n{legend(comparison)}\n" + (f"{failed}\n" if failed else "")


def csv_text(comparison: Comparison) -> str:
    """Return one line a row, seed and figure, for other programs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "seed", "figure", "value"])
    for row in comparison.rows:
        for figure in comparison.figures:
            for seed, value in sorted(row.values.get(figure.name, {}).items()):
                writer.writerow([row.name, seed, figure.name, repr(value)])
    return file.getvalue()


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
        "*": r"$^*$",
    }
)  # fmt: skip


def latex(comparison: Comparison) -> str:
    """Return a tabular (booktabs) for a paper."""
    heads, body = table_of(comparison)

    def line(parts: list[str]) -> str:
        return " & ".join(part.translate(_LATEX) for part in parts) + r" \\"

    columns = "l" + "r" * (len(heads) - 1)
    rows = [line(heads), r"\midrule", *(line(parts) for parts in body)]
    lines = [f"% {legend(comparison)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def html(comparison: Comparison) -> str:
    """Return a table in HTML, as a notebook shows it."""
    heads, body = table_of(comparison)
    escape: Callable[[str], str] = escapes.escape
    head = "".join(f"<th>{escape(part)}</th>" for part in heads)
    lines = "".join("<tr>" + "".join(f"<td>{escape(part)}</td>" for part in line) + "</tr>" for line in body)
    failed = "".join(f"<li>{escape(line)}</li>" for line in problems(comparison))
    end = f"<ul>{failed}</ul>" if failed else ""
    return (
        f"<p><b>{escape(comparison.title)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        f"<p>{escape(legend(comparison))}</p>{end}"
    )
