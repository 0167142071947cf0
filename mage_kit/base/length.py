"""How long a training on tokens is: in passes over the data, or in steps, which suit data of any size."""

from __future__ import annotations

from dataclasses import dataclass


def steps_in(epochs: float | None, steps: int | None, steps_per_epoch: int) -> int:
    """Return the steps of a training, at least 1, of which one unit is given."""
    return steps if steps is not None else max(1, round((epochs or 0.0) * steps_per_epoch))


@dataclass(frozen=True)
class Length:
    """Length and warm-up, each in one of two units.

    Args:
        epochs: Passes over the data; None where `steps` say it.
        steps: Optimizer steps.
        warmup_epochs: Of linear warm-up; None where `warmup_steps` say it.
        warmup_steps: The same in steps.

    Raises:
        ValueError: If both units are given, or neither is.
    """

    epochs: float | None
    steps: int | None
    warmup_epochs: float | None
    warmup_steps: int | None

    def __post_init__(self) -> None:
        for names in (("epochs", "steps"), ("warmup_epochs", "warmup_steps")):
            values = [getattr(self, name) for name in names]
            if (values[0] is None) == (values[1] is None):
                has = "both null" if values[0] is None else f"{values[0]:g} and {values[1]}"
                raise ValueError(f"{names[0]} and {names[1]}: {has}, one of them must be given")

    def of(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps in all."""
        return steps_in(self.epochs, self.steps, steps_per_epoch)

    def warm_up(self, steps_per_epoch: int) -> int:
        """Return the steps of warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_epochs or 0.0) * steps_per_epoch)
