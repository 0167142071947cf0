"""What strangers write is shown as it stands: in lines, tables, titles, progress and errors."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer.testing import CliRunner

from mage_kit.base.console import PlainConsole, printable
from mage_kit.base.manifest import list_files
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from tests.recipes.test_recipe import RECIPES

NASTY = "[red]x[/red] [link=https://example.org]y[/link] :smile: [/] \x1b]8;;https://example.org\x07z\x1b]8;;\x07"
SHOWN = r"[red]x[/red] [link=https://example.org]y[/link] :smile: [/] \x1b]8;;https://example.org\x07z\x1b]8;;\x07"


def written(show: Any) -> str:
    file = io.StringIO()
    show(PlainConsole(file=file, force_terminal=True, width=300, color_system="truecolor"))
    return file.getvalue()


def in_table(console: PlainConsole) -> None:
    table = Table(NASTY, title=NASTY)
    table.add_row(NASTY)
    console.print(table)


def in_progress(console: PlainConsole) -> None:
    with Reporter(console).task(NASTY, 2) as task:
        task.update(1, NASTY)
        task.update(2)


SHOWS: dict[str, Any] = {
    "line": lambda console: console.print(NASTY),
    "markup asked for": lambda console: console.print(NASTY, markup=True, emoji=True),
    "table": in_table,
    "say": lambda console: Reporter(console).say(NASTY),
    "progress": in_progress,
}


@pytest.mark.parametrize("name", SHOWS)
def test_nothing_is_interpreted(name: str) -> None:
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written(SHOWS[name]))  # rich's own colours and cursor
    assert SHOWN in text and "\x1b" not in text and "\x07" not in text


def test_what_cannot_be_printed_is_written_out() -> None:
    assert printable("a\tb\x00\u202e\ud800\nc") == "a\\tb\\x00\\u202e\\ud800\nc" and printable("ü → 図") == "ü → 図"


def test_a_reference_named_and_described_with_markup(tmp_path: Path) -> None:
    """`verify` prints what a folder says of itself, and where it lies."""
    folder = tmp_path / "[link=file:x]run[/link]"
    shutil.copytree(RECIPES / "reference_digits", folder)
    about = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps({**about, "about": NASTY, "lines": 1}))
    list_files(folder / "reference.json")
    done = CliRunner().invoke(app, ["verify", str(folder)])
    assert done.exit_code == 0 and "[red]x[/red]" in done.output and "\x1b" not in done.output, done.output
    missing = CliRunner().invoke(app, ["verify", str(tmp_path / "[/]")])
    assert "[/]" in str(missing.exception)
