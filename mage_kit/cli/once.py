"""Options that take one value are given once: of two the second would count, and nobody learn of the first."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mage_kit.base.errors import MageKitError


def guard(command: Any) -> Any:
    """Return a command, or a group of commands, that refuses an option given twice.

    Args:
        command: As click has it; changed in place.
    """
    if command is None or getattr(command, "refuses_twice", False):
        return command
    command.refuses_twice = True
    if hasattr(command, "get_command"):
        find = command.get_command
        command.get_command = lambda ctx, name: guard(find(ctx, name))
    parse = command.parse_args

    def parse_args(ctx: Any, args: list[str]) -> Any:
        _check(command, ctx, args)
        return parse(ctx, args)

    command.parse_args = parse_args
    return command


def _check(command: Any, ctx: Any, args: list[str]) -> None:
    *_, order = command.make_parser(ctx).parse_args(list(args))
    for parameter, count in Counter(order).items():
        if count > 1 and parameter.param_type_name == "option" and not parameter.multiple:
            raise MageKitError(f"{max(parameter.opts, key=len)}: given {count} times, must be given once")
