"""Below which prefix of a file's names a known layout stands: `first_stage_model.`, `vae.`, `ema_model.`, or none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.legacy.candidates import check_count
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
        names: What each of the file's names is without the prefix.
    """

    prefix: str
    layout: Layout | None
    names: dict[str, str]


@dataclass(frozen=True)
class View:
    """A place among a file's names: those below a prefix. Names are cut when they are read, not held for all views.

    Args:
        prefix: What stands before them.
        is_flat: Whether they are running means' names, without dots.
    """

    prefix: str
    is_flat: bool = False

    def own_names(self, names: Collection[str]) -> dict[str, str]:
        """Return what each of a file's names is without the prefix, of those that have it."""
        if self.is_flat:
            return dotted_below(names, self.prefix)
        return {name: name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)}

    def layout(self, names: Collection[str]) -> Layout | None:
        """Return the layout that they look like."""
        return recognise(self.own_names(names).values())


def exposures(path: Path, names: Collection[str]) -> dict[View, Layout]:
    """Return everything in a file that looks like a known layout, the shortest prefix first.

    A tokenizer inside a model is part of it, and none by itself.

    Raises:
        MageKitError: If markers of known layouts stand below more prefixes than any checkpoint has.
    """
    layouts = {view: view.layout(names) for view in _views(path, names)}
    known = {view: layout for view, layout in layouts.items() if layout is not None}
    inside = {view.prefix + TOKENIZER_PREFIX for view, layout in known.items() if layout.kind.startswith("mage")}
    order = sorted((view for view in known if view.prefix not in inside), key=lambda view: len(view.prefix))
    return {view: known[view] for view in order}


def has_layout(path: Path, names: Collection[str]) -> bool:
    """Whether anything in a file looks like a known layout.

    Raises:
        MageKitError: As `exposures`.
    """
    return any(view.layout(names) is not None for view in _views(path, names))


def expose(path: Path, names: Collection[str], prefix: str | None, kind: str | None) -> Exposure:
    """Return what a file is read as.

    Args:
        path: The file, for errors.
        names: All its names.
        prefix: What stands before the names; None takes the only one below which a known layout stands.
        kind: The layout that the caller names; None for any.

    Raises:
        MageKitError: If no name starts with the prefix, or there are several to choose from; names them.
    """
    known = exposures(path, names)
    if prefix is not None:
        return _with_prefix(path, names, prefix, known)
    choices = [view for view, layout in known.items() if layout.kind == kind] or list(known)
    if len(choices) > 1:
        last, several = choices[-1].prefix, _list({view: known[view] for view in choices})
        raise MageKitError(
            f"{path}: several prefixes hold weights of a known layout: {several}; "
            f"choose one (--prefix '{last}', in Python prefix='{last}')"
        )
    view = choices[0] if choices else View("")
    return Exposure(view.prefix, known.get(view), view.own_names(names))


def _views(path: Path, names: Collection[str]) -> list[View]:
    """One view for each prefix before a layout's marker; each costs a pass over all names."""
    ends = {
        name.removesuffix(layout.marker): None
        for layout in LAYOUTS.values()
        for name in names
        if name.endswith(layout.marker)
    }
    prefixes = [prefix for prefix in ends if not prefix or prefix[-1] in "./"]
    views = [*map(View, prefixes), *(View(prefix, is_flat=True) for prefix in flat_prefixes(names))]
    check_count(path, [view.prefix for view in views], "known layouts")
    return views


def _with_prefix(path: Path, names: Collection[str], prefix: str, known: dict[View, Layout]) -> Exposure:
    if not any(name.startswith(prefix) for name in names):
        near = nearest(prefix, [view.prefix for view in known])
        has = f"; weights of a known layout stand below {_list(known)}" if known else ""
        raise MageKitError(f"prefix: '{prefix}'{near or ','} no tensor of {path} starts so{has}")
    view = next((view for view in known if view.prefix == prefix), View(prefix))
    others = tuple(other.prefix for other in known if other.prefix != prefix and other.prefix.startswith(prefix))
    own = view.own_names(names)
    layout = known[view] if view in known else recognise(own.values())
    return Exposure(
        prefix, layout, {name: bare for name, bare in own.items() if not (others and name.startswith(others))}
    )


def _list(views: dict[View, Layout]) -> str:
    words = [f"'{view.prefix}' ({layout.title})" for view, layout in views.items()]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
