"""All published layouts, and which of them a file looks like."""

from __future__ import annotations

from collections.abc import Iterable

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.legacy.diffusers_layout import DiffusersLayout
from mage_kit.legacy.layout import Layout
from mage_kit.legacy.llamagen_layout import LlamaGenLayout
from mage_kit.legacy.mae_classifier_layout import MaeClassifierLayout
from mage_kit.legacy.mae_layout import MaeLayout
from mage_kit.legacy.mage_layout import ClassifierLayout, MageLayout
from mage_kit.legacy.maskgit_jax import MaskGITLayout
from mage_kit.legacy.taming_layout import TamingLayout
from mage_kit.legacy.vqgan_layout import VQGANLayout

LAYOUTS: dict[str, Layout] = {
    layout.kind: layout
    for layout in (
        MageLayout(),
        ClassifierLayout(),
        MaeLayout(),
        MaeClassifierLayout(),
        VQGANLayout(),
        TamingLayout(),
        LlamaGenLayout(),
        DiffusersLayout(),
        MaskGITLayout(),
    )
}


def get_layout(kind: str) -> Layout:
    """Return a layout by its name.

    Raises:
        MageKitError: If there is none; names the nearest.
    """
    if kind not in LAYOUTS:
        raise MageKitError(f"layout: '{kind}'{nearest(str(kind), LAYOUTS)} must be one of {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def recognise(names: Iterable[str]) -> Layout | None:
    """Return the first layout that a file with these names looks like."""
    name_set = set(names)
    return next((layout for layout in LAYOUTS.values() if layout.recognises(name_set)), None)
