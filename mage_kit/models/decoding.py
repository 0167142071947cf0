"""How tokens are decoded: how many at a step, which ones, and how each is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypedDict

from mage_kit.base.checks import whole_number
from mage_kit.models.guidance import Guidance
from mage_kit.schedules import SCHEDULES, CosineSchedule, Schedule
from mage_kit.selections import SELECTIONS, GumbelConfidence, Selection

MAX_STEPS = 10_000  # far more than any image has tokens
_EXAMPLES = {"schedule": "CosineSchedule", "selection": "Halton"}
_COLDEST = 1e-3  # below it logits over the temperature leave float32; 0 has a meaning of its own


class DecodingChanges(TypedDict, total=False):
    """What a call may change of a model's own decoding; see `Decoding`. None leaves a setting as it is; guidance 0,
    top_p 1 and a top_k of all codes switch off what a recipe switches on."""

    schedule: Schedule | None
    selection: Selection | None
    steps: int | None
    token_temperature: float | tuple[float, float] | None
    top_k: int | None
    top_p: float | None
    guidance: float | Guidance | None


@dataclass(frozen=True)
class Decoding:
    """How a model generates unless told otherwise. Paper: cosine schedule, Gumbel confidence 6.0, 20 steps.

    Tokens are drawn from softmax(logits / temperature), cut to the likeliest codes by `top_k` and then `top_p`. What a
    selection is told of them, confidence above all, is always the model's own distribution at temperature 1, so that
    the two temperatures (this one, and that of the selection's noise) act apart.

    Args:
        schedule: How many tokens stay masked after a step.
        selection: Which ones.
        steps: Decoding steps, T.
        token_temperature: Of the draw, at the first and the last step, linear between; 0 takes the likeliest code.
        top_k: Likeliest codes that a token may take; None for all.
        top_p: Probability that the likeliest codes that a token may take add up to, at least; None for all codes.
        guidance: Of conditional decoders; None for none.

    Raises:
        ValueError: If a number is outside its range.
    """

    schedule: Schedule
    selection: Selection
    steps: int = 20
    token_temperature: tuple[float, float] = (1.0, 1.0)
    top_k: int | None = None
    top_p: float | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        for name, kind in (("schedule", Schedule), ("selection", Selection)):
            if not isinstance(getattr(self, name), kind):
                rule = f"must be a {kind.__name__}, as mage_kit.{_EXAMPLES[name]}()"
                raise ValueError(f"{name}: {getattr(self, name)!r}, {rule}")
        whole_number("steps", self.steps, 1, MAX_STEPS)
        pair = self.token_temperature
        numbers = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(value, Real) for value in pair)
        if not numbers or not all(value == 0 or _COLDEST <= value < float("inf") for value in pair):
            raise ValueError(f"token_temperature: {pair}, must be two finite numbers, each 0 or at least {_COLDEST:g}")
        if self.guidance is not None and not isinstance(self.guidance, Guidance):
            raise ValueError(f"guidance: {self.guidance!r}, must be a number or a Guidance")
        if self.top_k is not None:
            whole_number("top_k", self.top_k, 1)
        if self.top_p is not None and not (isinstance(self.top_p, Real) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p: {self.top_p}, must lie in (0, 1]")

    def temperature_at(self, step: int) -> float:
        """Return the token temperature of a step, from 1 to `steps`."""
        first, last = self.token_temperature
        share = (step - 1) / max(1, self.steps - 1)
        return first * (1 - share) + last * share  # exact at both ends: 0 is asked for as 0

    def guidance_at(self, step: int) -> float:
        """Return the guidance's weight at a step, from 1 to `steps`."""
        return 0.0 if self.guidance is None else self.guidance.weight(step / self.steps)

    def cuts(self) -> dict[str, float]:
        """Return by name what keeps a token from taking every code; nothing where all may be drawn."""
        cuts = {"top_k": self.top_k, "top_p": self.top_p}
        return {name: value for name, value in cuts.items() if value is not None and (name, value) != ("top_p", 1.0)}

    def describe(self) -> dict[str, Any]:
        """Return this as a recipe's generation section, ready for JSON.

        Raises:
            MageKitError: If the schedule's or selection's class is not registered.
        """
        return {
            "schedule": SCHEDULES.describe(self.schedule),
            "selection": SELECTIONS.describe(self.selection),
            "steps": self.steps,
            "token_temperature": list(self.token_temperature),
            "top_k": self.top_k,
            "top_p": self.top_p,
            "guidance": self.guidance and self.guidance.model_dump(mode="json"),
        }

    def changed(self, changes: DecodingChanges) -> Decoding:
        """Return this decoding with some settings replaced.

        Raises:
            TypeError: If a name is unknown.
            ValueError: If a number is outside its range.
        """
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise TypeError(f"unexpected argument '{min(unknown)}'")
        settings: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if isinstance(temperature := settings.get("token_temperature"), Real):
            settings["token_temperature"] = (float(temperature), float(temperature))
        if isinstance(scale := settings.get("guidance"), Real):
            if not 0 <= float(scale) < float("inf"):
                raise ValueError(f"guidance: {scale}, must be a finite number of at least 0")
            settings["guidance"] = Guidance(scale=float(scale))
        return dataclasses.replace(self, **settings)


PRESETS: Mapping[str, DecodingChanges] = MappingProxyType(
    {
        "unconditional": {
            "schedule": CosineSchedule(), "selection": GumbelConfidence(), "steps": 20, "token_temperature": 1.0,
        },
        "reconstruct": {
            "schedule": CosineSchedule(), "selection": GumbelConfidence(temperature=3.0), "steps": 12,
            "token_temperature": 1.0,
        },
        "inpaint": {
            "schedule": CosineSchedule(), "selection": GumbelConfidence(temperature=1.0), "steps": 16,
            "token_temperature": 0.7,
        },
    }
)  # fmt: skip
"""Decoding by purpose, for `mk.generate(model, 4, **mk.PRESETS["unconditional"])` and the edits. "unconditional" is the
paper's; the others are ours, chosen by eye: the more is known, the less noise it takes to be varied."""
