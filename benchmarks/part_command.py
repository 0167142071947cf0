"""What the parts of the GPU's benchmark share: their command line, and the line of what did not run."""

from __future__ import annotations

import argparse
from pathlib import Path


def part_parser(
    text: str | None, toy: str = "a model of two narrow layers: to see that it runs"
) -> argparse.ArgumentParser:
    """Return a parser of `--json FILE` and `--toy`.

    Args:
        text: What the command is, for its help.
        toy: What `--toy` means there.
    """
    words = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--json", type=Path, required=True, help="file to write, after each line of the result")
    words.add_argument("--toy", action="store_true", help=toy)
    return words


def positive(text: str) -> int:
    """Read a number of images: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}, must be at least 1")
    return value


positive.__name__ = "whole number"  # what argparse calls it in its error


def failure(error: Exception) -> dict[str, str]:
    """Return the line of a form that does not run."""
    return {"failed": f"{type(error).__name__}: {error}"[:500]}
