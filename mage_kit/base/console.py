"""A console that interprets nothing: whatever stands in a file, a name or an error is shown as the letters that it is.

Rich would read brackets as markup (colours, links), colons as emoji, and terminals read escape sequences. Names of
folders, of classes, of runs, and what errors quote of files are strangers' text.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text


class PlainConsole(Console):
    """Rich's console without markup, emoji and highlighting; letters that cannot be printed are written out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return text as it stands; everything that is printed or put into a table passes here."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(printable(text), **settings)


def printable(text: str) -> str:
    """Return text in which control characters and the like are written out, as \\x1b."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
