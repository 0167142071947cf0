"""Options that generation and editing share, and what they mean to the library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from pydantic import ValidationError

from mage_kit.base.errors import MageKitError

if TYPE_CHECKING:
    from mage_kit.base.registry import Registry
    from mage_kit.models.decoding import DecodingChanges
from mage_kit.base.signature import NoWires

Built = TypeVar("Built")


class Precisions(StrEnum):
    """What to compute in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Weights(StrEnum):
    """Which weights of a run."""

    raw = "raw"
    ema = "ema"


class Presets(StrEnum):
    """Decoding by purpose."""

    unconditional = "unconditional"
    reconstruct = "reconstruct"
    inpaint = "inpaint"


PrecisionOption = Annotated[
    Precisions, typer.Option(help="auto: bfloat16 where the processor has it and the model is wide.")
]
WeightsOption = Annotated[
    Weights, typer.Option(help="raw, or ema for the running mean of a run that has one (training.ema).")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Image i follows (seed, i) alone.")]
ImageSizeOption = Annotated[
    str | None,
    typer.Option("--image-size", help="Pixels, as 512 or 512x384, if not the run's: its positions are resized."),
]
GifOption = Annotated[bool, typer.Option("--gif", help="Write the canvas filling up too, as an animation.")]


@dataclass(frozen=True)
class DecodingOptions:
    """How tokens are drawn, where the command line says otherwise than the recipe."""

    preset: Annotated[
        Presets | None,
        typer.Option(help="Decoding by purpose instead of the recipe's; other options change it further."),
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, max=10_000, help="Decoding steps; default the recipe's.")] = None
    schedule: Annotated[str | None, typer.Option(help="Kind, or JSON with its settings; default the recipe's.")] = None
    selection: Annotated[str | None, typer.Option(help="Kind, or JSON with its settings; default the recipe's.")] = None
    temperature: Annotated[
        str | None, typer.Option(help="Token temperature, as 0.9, or FIRST,LAST; default the recipe's.")
    ] = None
    top_k: Annotated[int | None, typer.Option(min=1, help="Likeliest codes that a token may take.")] = None
    top_p: Annotated[
        float | None, typer.Option(help="Probability that the likeliest codes add up to, above 0, at most 1.")
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(help="Of class-conditional runs: scale, or JSON as in a recipe; default the recipe's."),
    ] = None

    def changes(self) -> DecodingChanges:
        """Return what they change of a recipe's decoding.

        Raises:
            MageKitError: If one cannot be read.
        """
        from mage_kit.models.decoding import PRESETS
        from mage_kit.schedules import SCHEDULES
        from mage_kit.selections import SELECTIONS

        changes: DecodingChanges = {
            "steps": self.steps,
            "schedule": _component(SCHEDULES, "schedule", self.schedule),
            "selection": _component(SELECTIONS, "selection", self.selection),
            "token_temperature": _temperature(self.temperature),
            "top_k": self.top_k,
            "top_p": self.top_p,
            "guidance": _guidance(self.guidance),
        }
        if self.preset is None:
            return changes
        own = {name: value for name, value in changes.items() if value is not None}
        return cast("DecodingChanges", {**PRESETS[self.preset.value], **own})


def _component(registry: Registry[Built, NoWires], name: str, text: str | None) -> Built | None:
    from mage_kit.base.plugins import load_entry_points
    from mage_kit.base.signature import NoWires
    from mage_kit.recipes.places import at

    if text is None:
        return None
    load_entry_points()
    value = _json(name, text) if text.lstrip().startswith("{") else {"kind": text}
    try:
        config = registry.parse(value)
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join([name, *map(str, item["loc"])])
        raise MageKitError(f"--{where}: {item['msg']}") from None
    with at(f"--{name}", config):
        return registry.build(config, NoWires())


def _temperature(text: str | None) -> float | tuple[float, float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise MageKitError(f"--temperature: '{text}', must be a number, or FIRST,LAST")
    return values[0] if len(values) == 1 else (values[0], values[1])


def _guidance(text: str | None) -> Any:
    from mage_kit.models.guidance import Guidance

    if text is None:
        return None
    value = _json("guidance", text)
    try:
        return Guidance.model_validate(value if isinstance(value, dict) else {"scale": value})
    except ValidationError as error:
        item = error.errors()[0]
        raise MageKitError(f"--guidance {'.'.join(map(str, item['loc']))}: {item['msg']}") from None


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MageKitError(f"--{name}: '{text}', not JSON ({error.msg})") from None
