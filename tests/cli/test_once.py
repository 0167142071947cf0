"""An option that takes one value is given once, in every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app


def commands(command: Any, context: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with the words that call it."""
    if not hasattr(command, "list_commands"):
        yield before, command
        return
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), context, (*before, name))


ROOT = typer.main.get_command(app)
ALL = dict(commands(ROOT, ROOT.make_context("mage-kit", [], resilient_parsing=True)))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_no_option_counts_twice(words: tuple[str, ...]) -> None:
    options = [part for part in ALL[words].params if part.param_type_name == "option" and not part.multiple]
    for option in (option for option in options if option.name != "help"):
        flag = max(option.opts, key=len)
        value = () if option.is_flag else ("1",)
        done = CliRunner().invoke(app, [*words, flag, *value, flag, *value])
        assert isinstance(done.exception, mk.MageKitError), (words, flag, done.output)
        assert str(done.exception) == f"{flag}: given 2 times, must be given once"


def test_those_that_take_several_values_do() -> None:
    done = CliRunner().invoke(app, ["check", "nowhere.json", "--set", "a=1", "--set", "b=2"])
    assert "no such file" in str(done.exception)
