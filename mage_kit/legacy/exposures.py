"""Below which prefix of a file's names a known layout stands: `first_stage_model.`, `vae.`, `ema_model.`, or none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.legacy.flat_names import dotted_below, flat_prefixes
from mage_kit.legacy.layout import Layout
from mage_kit.legacy.layouts import LAYOUTS, recognise
from mage_kit.legacy.mage_layout import TOKENIZER_PREFIX

_SHOWN = 5  # prefixes in a message


@dataclass(frozen=True)
class Exposure:
    """Names of a file as a layout has them.

    Args:
        prefix: What was before all of them; "" for nothing.
        layout: What they look like; None for nothing known.
        names: The file's name of each.
    """

    prefix: str
    layout: Layout | None
    names: dict[str, str]


def exposures(names: Collection[str]) -> list[Exposure]:
    """Return everything in a file that looks like a known layout, the shortest prefix first.

    A tokenizer inside a model is part of it, and none by itself.
    """
    ends = {
        name.removesuffix(layout.marker): None
        for layout in LAYOUTS.values()
        for name in names
        if name.endswith(layout.marker)
    }
    views = [_below(names, prefix) for prefix in ends if not prefix or prefix[-1] in "./"]
    views += [_flat(names, prefix) for prefix in flat_prefixes(names)]
    known = sorted((view for view in views if view.layout is not None), key=lambda view: len(view.prefix))
    inside = {
        view.prefix + TOKENIZER_PREFIX
        for view in known
        if view.layout is not None and view.layout.kind.startswith("mage")
    }
    return [view for view in known if view.prefix not in inside]


def expose(path: Path, names: Collection[str], prefix: str | None, kind: str | None) -> Exposure:
    """Return what a file is read as.

    Args:
        path: The file, for errors.
        names: All its names.
        prefix: Asked for; None takes the only one below which a known layout stands.
        kind: The layout asked for; None for any.

    Raises:
        MageKitError: If no name starts with the prefix, or there are several to choose from; names them.
    """
    known = exposures(names)
    if prefix is not None:
        return _asked(path, names, prefix, known)
    wanted = [view for view in known if view.layout is not None and view.layout.kind == kind] or known
    if len(wanted) > 1:
        raise MageKitError(
            f"{path}: several prefixes hold weights of a known layout: {_list(wanted)}; "
            f"choose one (--prefix '{wanted[-1].prefix}', in Python prefix='{wanted[-1].prefix}')"
        )
    return wanted[0] if wanted else _below(names, "")


def _asked(path: Path, names: Collection[str], prefix: str, known: list[Exposure]) -> Exposure:
    if not any(name.startswith(prefix) for name in names):
        near = nearest(prefix, [view.prefix for view in known])
        has = f"; weights of a known layout stand below {_list(known)}" if known else ""
        raise MageKitError(f"prefix: '{prefix}'{near or ','} no tensor of {path} starts so{has}")
    same = next((view for view in known if view.prefix == prefix), None)
    others = tuple(view.prefix for view in known if view.prefix != prefix and view.prefix.startswith(prefix))
    view = same or _below(names, prefix)
    own = {bare: name for bare, name in view.names.items() if not (others and name.startswith(others))}
    return Exposure(prefix, view.layout, own)


def _below(names: Collection[str], prefix: str) -> Exposure:
    own = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    return Exposure(prefix, recognise(own), own)


def _flat(names: Collection[str], prefix: str) -> Exposure:
    own = dotted_below(names, prefix)
    return Exposure(prefix, recognise(own), own)


def _list(views: list[Exposure]) -> str:
    more = f" and {len(views) - _SHOWN} more" if len(views) > _SHOWN else ""
    return ", ".join(f"'{view.prefix}' ({view.layout.title})" for view in views[:_SHOWN] if view.layout) + more
