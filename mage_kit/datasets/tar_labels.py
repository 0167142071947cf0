"""Labels of samples in tar files: class numbers, or words whose classes are in alphabetical order."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from mage_kit.datasets.tar_members import Member, plain

NO_LABEL = -1
FOLDER, NONE, JSON = "folder", "none", "json:"
PLAIN_LABEL = "cls"
_CLASSES = 1 << 20  # a number above is no class
_LONGEST = 64  # bytes of a label; a caption is longer
_LARGEST_TEXT, _LARGEST_JSON = 2 * _LONGEST, 1 << 20  # bytes of a member with a label; blanks may stand around it
_NUMBER = re.compile(r"\+?\d{1,7}")


def label_extension(label: str) -> str | None:
    """Return the extension of the members that hold labels; None where they stand elsewhere, or there are none."""
    if label in (FOLDER, NONE):
        return None
    return "json" if label.startswith(JSON) else label


def label_text(raw: BinaryIO, picture: Member, parts: Mapping[str, Member], label: str) -> str:
    """Return the label of a sample as it is written; "" where it has none that can be read.

    Args:
        raw: The open tar file.
        picture: Of the sample.
        parts: Members of the sample, by extension.
        label: "folder", "json:KEY", or an extension.
    """
    if label == FOLDER:
        return posixpath.basename(posixpath.dirname(plain(picture.name)))
    extension = label_extension(label)
    if extension is None or extension not in parts:
        return ""
    member = parts[extension]
    if member.size > (_LARGEST_JSON if label.startswith(JSON) else _LARGEST_TEXT):
        return ""  # a part of it might read as another label
    content = os.pread(raw.fileno(), member.size, member.offset)
    try:
        if label.startswith(JSON):
            return _word(_plain_value(json.loads(content), label.removeprefix(JSON)))
        return _word(content.decode())
    except (ValueError, RecursionError):  # neither text nor JSON
        return ""


def number_labels(texts: Sequence[str], *, words: bool) -> tuple[tuple[str, ...], dict[str, int]]:
    """Number the classes: by themselves where any is a number, else in the order of their names.

    Args:
        texts: All labels, as they are written.
        words: Whether numbers are names too, as those of folders are.

    Returns:
        Names of the classes, and the class of each label; a word among numbers has none.
    """
    numbers = {} if words else {text: int(text) for text in texts if _is_number(text)}
    if numbers:
        return tuple(str(number) for number in range(max(numbers.values()) + 1)), numbers
    names = sorted(texts)
    return tuple(names), {name: number for number, name in enumerate(names)}


def _plain_value(content: Any, key: str) -> str:
    value = content.get(key) if isinstance(content, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""


def _word(text: str) -> str:
    """The text, if it is one line as long as a name is."""
    text = text.strip()
    return text if len(text.encode()) <= _LONGEST and text.isprintable() else ""


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text, 0) is not None and text.isascii() and int(text) < _CLASSES
