"""What is written outside is short, and uses exported names alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mage_kit as mk

PLUGINS = Path(__file__).parents[1] / "plugins"


LINES = {
    "against": 60, "second_stream": 40, "bit_head": 60, "gaussian_head": 60, "level_quantizer": 60, "lion": 60,
    "class_means": 60,
}  # fmt: skip


@pytest.mark.parametrize(("name", "lines"), LINES.items())
def test_they_are_short_and_import_what_is_exported(name: str, lines: int) -> None:
    text = (PLUGINS / f"{name}.py").read_text()
    assert len(text.splitlines()) < lines
    roots = {
        word.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for word in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert roots <= {"__future__", "collections", "math", "typing", "numpy", "torch", "mage_kit"}
    assert "mage_kit." not in text.replace("of mage_kit.", "").replace("mage_kit,", "")
    names = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mk"
    }
    assert names <= set(mk.__all__)
