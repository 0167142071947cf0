"""Weights that are close to a known layout and are none: called by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mage_kit.legacy.candidates import check_count

Shape = tuple[int, ...]

_OUT, _IN = "encoder.conv_out.weight", "decoder.conv_in.weight"


def foreign_form(shapes: Mapping[str, Shape]) -> str | None:
    """Return what weights are that no tokenizer here can be, as a sentence; None for all others.

    Args:
        shapes: By name, without any prefix.
    """
    if {"quantize.embed.weight", "quantize.proj.weight"} <= shapes.keys():
        return (
            "these are weights of a Gumbel VQGAN: its ids are the largest of a projection of the features, which is no "
            "nearest code, and no tokenizer here chooses codes so"
        )
    coded = any(name.startswith("quantize.") for name in shapes)
    out, inside = shapes.get(_OUT, ()), shapes.get(_IN, ())
    if not coded and len(out) == len(inside) == 4 and out[0] == 2 * inside[1]:
        return "these are weights of a KL autoencoder: it has no codebook; MAGE needs discrete tokens"
    return None


def foreign_below(path: Path, shapes: Mapping[str, Shape]) -> tuple[str, str] | None:
    """Return (prefix, sentence) of the first such weights below any prefix.

    Args:
        path: The file, for the error.
        shapes: By name.

    Raises:
        MageKitError: If they could stand below more prefixes than any checkpoint has.
    """
    prefixes = [name.removesuffix(_OUT) for name in shapes if name.endswith(_OUT)]
    check_count(path, prefixes, "autoencoders")
    for prefix in prefixes:
        sentence = foreign_form({own.removeprefix(prefix): shapes[own] for own in shapes if own.startswith(prefix)})
        if sentence is not None:
            return prefix, sentence
    return None
