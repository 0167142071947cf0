"""What a call may say of how a picture is edited."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mage_kit.base.checks import whole_number
from mage_kit.base.grid import TokenGrid
from mage_kit.editing.fills import FILLS
from mage_kit.generation import Asked, Labels, Step, Watch
from mage_kit.models.decoding import Decoding, DecodingChanges

_FINE = 8  # cells a side
_RANGES: dict[str, tuple[int, int | None]] = {
    "n": (1, 10_000),
    "batch": (1, None),
    "seed": (0, None),
    "dilate": (0, None),
    "feather": (0, 256),
}


class EditOptions(DecodingChanges, total=False):
    """Options of all edits; see `EditSettings`, and `mage_kit.Decoding` for schedule, selection, steps,
    token_temperature, top_k, top_p and guidance."""

    n: int
    seed: int
    fill: str
    dilate: int | None
    paste: bool
    feather: int | None
    whole: bool
    labels: Labels
    batch: int
    precision: Asked | None
    trace: bool
    on_progress: Callable[[int, int], None] | None
    watch: Watch | None


@dataclass(frozen=True)
class EditSettings:
    """How a picture is edited.

    Args:
        n: Variants.
        seed: Variant i follows (seed, i) alone.
        fill: What stands under the mask when the picture is tokenised, made from unmasked pixels alone: "edge" for
            the colours along the hole's edge, "mean" for one colour.
        dilate: Rings of cells around the hole whose tokens are decoded too: what fills the hole colours them. None for
            1 on grids of at least 8 cells a side, else, and where a ring would leave nothing known, 0.
        paste: Put the original pixels back around the hole; else the window comes from the tokens as a whole.
        feather: Pixels outside the hole over which the old picture fades in, with `paste`; None for a 32nd of the
            picture's shorter side, 8 at most.
        whole: Have the model look at the whole picture, however large; else at a window around the hole, at the
            picture's own resolution where the hole allows it.
        labels: Class of the picture, for conditional models; None for no class.
        batch: Variants at once.
        precision: As in `mage_kit.generate`.
        trace: Whether every step is kept.
        on_progress: Called with (variants x steps done, all of them).
        watch: Shown the tokens of the variants at hand after each step; see `mage_kit.generation.Step`.

    Raises:
        ValueError: If a value breaks its rule.
    """

    n: int = 1
    seed: int = 0
    fill: str = "edge"
    dilate: int | None = None
    paste: bool = True
    feather: int | None = None
    whole: bool = False
    labels: Labels = None
    batch: int = 8
    precision: Asked | None = "auto"
    trace: bool = False
    on_progress: Callable[[int, int], None] | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if getattr(self, name) is not None or name not in ("feather", "dilate"):
                whole_number(name, getattr(self, name), least, most)
        if self.fill not in FILLS:
            raise ValueError(f"fill: '{self.fill}', must be one of {', '.join(FILLS)}")

    def ring(self, grid: TokenGrid) -> int:
        """Return the cells around a hole that are decoded too: on coarse grids they cost more than they give."""
        return int(min(grid.height, grid.width) >= _FINE) if self.dilate is None else self.dilate

    def feather_of(self, height: int, width: int) -> int:
        """Return the feather of a picture of that size."""
        return min(8, min(height, width) // 32) if self.feather is None else self.feather

    def describe(self) -> dict[str, Any]:
        """Return what matters of them to the pictures, ready for JSON."""
        left_out = ("labels", "batch", "precision", "trace", "on_progress", "watch")
        names = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
        return {name: getattr(self, name) for name in names}

    def watch_all(self, step: Step) -> None:
        """Hand a step on to those who watch."""
        if self.on_progress is not None:
            self.on_progress(step.first * step.steps + len(step.ids_BL) * step.number, self.n * step.steps)
        if self.watch is not None:
            self.watch(step)


def split_options(options: EditOptions, own: Decoding) -> tuple[EditSettings, Decoding]:
    """Return the settings of the edit, and how tokens are decoded.

    Args:
        options: Of a call.
        own: The model's decoding.

    Raises:
        ValueError: If a value breaks its rule.
        TypeError: If a name is unknown.
    """
    names = {field.name for field in dataclasses.fields(EditSettings)}
    mine = {name: value for name, value in options.items() if name in names}
    rest = {name: value for name, value in options.items() if name not in names}
    return EditSettings(**mine), own.changed(rest)  # type: ignore[arg-type]  # of the TypedDict
