"""What a published layout is: which of its tensors become which of ours, in both directions, and what it leaves unused.

A layout builds the module from the tensors' shapes; reading is strict: nothing missing, unexpected or of another shape.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError, misfits
from mage_kit.legacy.forms import SAME, Form
from mage_kit.recipes.resizing import check_size


@dataclass(frozen=True)
class Options:
    """What a file does not say.

    Args:
        image_size: Height and width in pixels; None: square for models, 256 x 256 for bare tokenizers.
        encoder_heads: None: by the known width.
        decoder_heads: None: by the known width.
        padding: What filled the decoder's input in training.
        ignore: Prefixes of names to leave unused.
        norm_groups: Groups of GroupNorm, where a file beside the weights tells; None: 32.
    """

    image_size: tuple[int, int] | None = None
    encoder_heads: int | None = None
    decoder_heads: int | None = None
    padding: str = "class_token"
    ignore: tuple[str, ...] = ()
    norm_groups: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ignore, str) or not all(isinstance(prefix, str) and prefix for prefix in self.ignore):
            raise MageKitError(f"ignore: {self.ignore!r}, must be a tuple of prefixes")
        check_size(self.image_size)
        for name in ("encoder_heads", "decoder_heads", "norm_groups"):
            number = getattr(self, name)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise MageKitError(f"{name}: {number!r}, must be a positive number")
        if self.padding not in ("class_token", "mask_token"):
            raise MageKitError(f"padding: '{self.padding}', must be class_token or mask_token")


@dataclass(frozen=True)
class Pair:
    """One tensor of ours and where it stands in the published file.

    Args:
        ours: Name in our module's state.
        theirs: Published name.
        form: How values and shape change.
    """

    ours: str
    theirs: str
    form: Form = SAME


@dataclass(frozen=True)
class Unused:
    """A published tensor, or part of one, that nothing here reads.

    Args:
        name: Published name.
        shape: Published shape.
        values: Values unused: all of them, or those of the rows left out.
        reason: Why.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    reason: str


@dataclass(frozen=True)
class Fitted:
    """A file that fits its layout.

    Args:
        module: On the meta device.
        state: Its tensors, as they stand in the file.
        unused: What is left.
        values: Values that reach the module.
        pairs: How names correspond.
    """

    module: nn.Module
    state: dict[str, Tensor]
    unused: list[Unused]
    values: int
    pairs: list[Pair]


class LayoutError(MageKitError):
    """A file that does not fit a layout."""


class Shapes:
    """Published names and shapes, from which sizes are read.

    Args:
        shapes: By name.
        prefix: Put before every name that is looked up.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> None:
        self.shapes, self.prefix = shapes, prefix

    def under(self, prefix: str) -> Shapes:
        """The same below a prefix."""
        return Shapes(self.shapes, self.prefix + prefix)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.shapes

    def of(self, name: str, axes: int) -> tuple[int, ...]:
        """Return a shape.

        Raises:
            LayoutError: If there is no such tensor, or it has another number of axes.
        """
        shape = self.shapes.get(self.prefix + name)
        if shape is None:
            raise LayoutError(f"{self.prefix + name}: missing, no size can be read from it")
        if len(shape) != axes or 0 in shape:
            raise LayoutError(f"{self.prefix + name}: {shape}, must have {axes} axes, none of length 0")
        return shape

    def count(self, pattern: str, first: int = 0) -> int:
        """Return how many numbers `{}` takes from `first` without a gap, in names that start with the pattern."""
        before, after = (re.escape(part) for part in (self.prefix + pattern).split("{}"))
        form = re.compile(f"{before}(0|[1-9][0-9]{{0,5}}){after}")
        numbers = {int(match[1]) for name in self.shapes if (match := form.match(name))}
        number = first
        while number in numbers:
            number += 1
        return number - first


class Layout(ABC):
    """A published layout.

    Attributes:
        kind: Its name on the command line.
        title: What it is.
        marker: A tensor that every file of it has; what stands before this name is before all of them.
        container: Key under which PyTorch files of it keep the weights.
        reasons: Pattern of unused names to the reason.
        row_reason: Why rows of a tensor may stay unused.
        absent: Tensors of ours that no such file has, which are zeros.
        uses: Options that say something of it.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    marker: ClassVar[str]
    container: ClassVar[str] = "state_dict"
    reasons: ClassVar[Mapping[str, str]] = {}
    row_reason: ClassVar[str] = ""
    absent: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset({"image_size"})

    @abstractmethod
    def recognises(self, names: set[str]) -> bool:
        """True if a file with these names looks like this layout."""

    def today(self, name: str) -> str:
        """Return what a tensor is called today that older files may call otherwise; here: the same."""
        return name

    def own_settings(self, module: Any) -> dict[str, Any]:
        """Return what a file beside the weights must state of a module, where it says it at all; here: nothing."""
        return {}

    def check_settings(self, module: Any, settings: Mapping[str, Any]) -> None:
        """Hold what a file beside the weights states against the module.

        Raises:
            LayoutError: If they differ; names the first difference.
        """
        for key, need in self.own_settings(module).items():
            value = settings.get(key)
            if value is not None and (value != need or isinstance(value, bool) != isinstance(need, bool)):
                raise LayoutError(f"config.json: {key} is {value!r}, the weights and this layout have {need!r}")

    @abstractmethod
    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Return the module that the shapes call for, on torch's current device.

        Raises:
            LayoutError: If sizes cannot be read from the shapes.
        """

    def pairs(self, module: Any) -> list[Pair]:
        """Return one pair for each tensor of the module's state that the layout holds; here: the same names."""
        return one_to_one(module.state_dict(), {})

    def filler(self, module: Any) -> dict[str, Tensor]:
        """Return unused tensors that published files hold, for a module that was trained here."""
        return {}

    def reason(self, name: str, options: Options) -> str | None:
        """Return why a tensor that no pair names may stand there, or None if it may not."""
        if any(name.startswith(prefix) for prefix in options.ignore):
            return "left out on request"
        return next((reason for pattern, reason in self.reasons.items() if re.fullmatch(pattern, name)), None)

    def fit(self, tensors: Mapping[str, Tensor], options: Options) -> Fitted:
        """Match a file's tensors with the module that their shapes call for.

        Args:
            tensors: By published name; those on the meta device will do.
            options: What the file does not say.

        Raises:
            LayoutError: With everything missing, unexpected or of another shape.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._check_options(options)
        try:
            with torch.device("meta"):
                module = self.build(Shapes(shapes), options)
        except LayoutError:
            raise
        except ValueError as error:
            raise LayoutError(str(error)) from None
        state, pairs = module.state_dict(), self.pairs(module)
        zeros = {name: torch.zeros(state[name].shape) for name in self.absent if name in state}
        named = sorted([*(pair.ours for pair in pairs), *zeros])
        assert named == sorted(state), "a layout must name every tensor of its module"
        needs = {pair.theirs: pair.form.shape(tuple(state[pair.ours].shape)) for pair in pairs}
        leftovers = [
            Unused(name, shapes[name], math.prod(shapes[name]), reason)
            for name in shapes.keys() - needs.keys()
            if (reason := self.reason(name, options)) is not None
        ]
        self._check(shapes, needs, {item.name for item in leftovers})
        for prefix in options.ignore:
            if not any(item.name.startswith(prefix) for item in leftovers):
                raise LayoutError(f"ignore: '{prefix}', no tensor that could be left out starts so")
        for pair in pairs:
            surplus = pair.form.surplus(shapes[pair.theirs])
            if surplus:
                leftovers.append(Unused(pair.theirs, shapes[pair.theirs], surplus, self.row_reason))
        weights = {pair.ours: pair.form.read(tensors[pair.theirs]) for pair in pairs} | zeros
        count = sum(math.prod(shape) for shape in shapes.values()) - sum(item.values for item in leftovers)
        return Fitted(module, weights, sorted(leftovers, key=lambda item: item.name), count, pairs)

    def _check_options(self, options: Options) -> None:
        """Refuse options that this layout has no use for."""
        for field in dataclasses.fields(Options):
            if field.name not in ("ignore", *self.uses) and getattr(options, field.name) != field.default:
                raise LayoutError(f"{field.name}: given, but the layout has no use for it")

    def _check(
        self, shapes: Mapping[str, tuple[int, ...]], needs: Mapping[str, tuple[int, ...]], leftovers: set[str]
    ) -> None:
        lines = misfits(needs, {name: shape for name, shape in shapes.items() if name not in leftovers})
        roots = {name.split(".")[0] for name in needs}
        beyond = {name.split(".")[0] + "." for name in shapes.keys() - leftovers if name.split(".")[0] not in roots}
        if beyond and len(lines) == 1:  # nothing else is wrong
            lines.append("  leave them out with " + " ".join(f"--ignore {prefix}" for prefix in sorted(beyond)[:5]))
        if lines:
            raise LayoutError("\n".join(lines))


def one_to_one(state: Iterable[str], rename: Mapping[str, str]) -> list[Pair]:
    """Pair names by prefix: the longest prefix of `rename` that a name starts with is replaced."""
    pairs = []
    for name in state:
        prefix = max((prefix for prefix in rename if name.startswith(prefix)), key=len, default=None)
        pairs.append(Pair(name, name if prefix is None else rename[prefix] + name.removeprefix(prefix)))
    return pairs
