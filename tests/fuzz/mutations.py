"""Seeded mutations: of JSON values, of texts, of bytes. The same number gives the same case."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1e-30, 0.5, -0.5, 1.0, 1e30, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400,
    10**9, 10**6, 65_535, "", " ", "x", "none", "null", "auto", "kind", "[red]x[/red]", "[/]", "\x00", "\x1b[31m",
    "é" * 300, "../..", "/", "/etc/passwd", "~", "file://x", "a" * 5000, "\ud800", "1", "1e3", "NaN", "Infinity",
    "lowest", [], {}, [[]], [{}], [1], [1, 2], [1, 2, 3], [0, 0], [-1, -1], [10**9, 10**9], [None], ["x"],
    {"kind": "x"}, {"kind": None}, {"kind": []}, {"a": {"b": 1}}, [1] * 1000, ["x"] * 1000, {"kind": "mage"},
    {"kind": "uniform"}, {"x" * 2000: 1}, {"": 1},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    here = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return here + [place for key, part in inner for place in places(part, (*path, key))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutate_json(value: Any, draw: random.Random, kinds: tuple[str, ...] = ()) -> Any:
    """One to three mutations of a JSON object."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if not (every := places(value)):
            break
        path = draw.choice(every)
        owner, key = at(value, path[:-1]), path[-1]
        what = draw.randrange(10)
        if what < 4:
            owner[key] = copy.deepcopy(draw.choice(HOSTILE))
        elif what == 4:
            owner[key] = _near(owner[key], draw, kinds)
        elif what == 5:
            del owner[key]
        elif what == 6 and isinstance(owner, dict):
            owner[draw.choice(("x", f"{key}s", "kind", "", "weights", "$schema"))] = copy.deepcopy(draw.choice(HOSTILE))
        elif what == 7:
            owner[key] = copy.deepcopy(at(value, draw.choice(every)) if path in places(value) else None)
        elif what == 8:
            owner[key] = draw.choice(([owner[key]], {"kind": owner[key]}, {"x": owner[key]}))
        elif kinds:
            owner[key] = draw.choice((draw.choice(kinds), {"kind": draw.choice(kinds)}))
    return value


def _near(value: Any, draw: random.Random, kinds: tuple[str, ...]) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        half = value / 2 if abs(value) < 2**53 else value // 2  # a float cannot hold every larger one
        return draw.choice((0, -value, value + 1, value - 1, value * 2, value * 1000, half, 10**9, -1))
    if isinstance(value, float):
        return draw.choice((0.0, -value, value * 1e6, 1.0, 1.5, int(value), 1e308))
    if isinstance(value, str):
        return draw.choice((value.upper(), value[:-1], value + "x", value * 3, *kinds[:1]))
    if isinstance(value, list):
        return draw.choice((value * 2, value[:-1], value[::-1], [*value, None]))
    return {} if value is None else dict(list(value.items())[::2])


def mutate_text(text: str, draw: random.Random) -> str:
    """One mutation of a text: cut, doubled, with something foreign in it."""
    at_ = draw.randrange(len(text) + 1)
    what = draw.randrange(6)
    if what == 0:
        return text[:at_]
    if what == 1:
        return (
            text[:at_]
            + draw.choice(("[" * 200, "NaN", "-Infinity", "\x00", "{", "}", ",", '"', "1e999", "//"))
            + text[at_:]
        )
    if what == 2:
        end = min(len(text), at_ + draw.randrange(1, 40))
        return text[:at_] + text[end:]
    if what == 3:
        return text[:at_] + text[at_ : at_ + 60] + text[at_:]
    if what == 4:
        return draw.choice(
            ("", "[]", "null", '"x"', "1", "{}", "{" * 5000, "[" * 100_000, '{"a":' * 200 + "1" + "}" * 200)
        )
    return json.dumps({"x": text})


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """One mutation of bytes: a flipped bit, a run of others, a cut, a doubled part, zeros."""
    what, place = draw.randrange(7), draw.randrange(max(1, len(data)))
    length = draw.choice((1, 2, 8, 64, 1024))
    if what < 3:
        return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :] if data else b"x"
    if what == 3:
        return data[:place]
    if what == 4:
        return data[:place] + draw.randbytes(length) + data[place + length :]
    if what == 5:
        return data[:place] + data[place : place + length] + data[place:]
    return data[:place] + bytes(length) + data[place + length :]
