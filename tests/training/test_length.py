"""Length and warm-up in epochs or in steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.length import Length
from mage_kit.cli import app
from mage_kit.recipes.workload import workload
from tests.house.test_core import QUICK
from tests.training.test_training import small

IN_STEPS = ("training.epochs=null", "training.steps=5", "training.warmup_epochs=null", "training.warmup_steps=2")


def test_either_unit_alone() -> None:
    assert Length(2.5, None, 0.5, None).of(10) == 25 and Length(2.5, None, 0.5, None).warm_up(10) == 5
    assert Length(None, 7, None, 3).of(10) == 7 and Length(None, 7, None, 3).warm_up(10) == 3
    assert Length(0.01, None, 0, None).of(10) == 1, "at least one step"
    assert Length(2, None, None, 0).warm_up(10) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (IN_STEPS[:1], "epochs and steps: both null, one of them must be given"),
        (IN_STEPS[1:2], r"epochs and steps: .* and 5, one of them must be given"),
        (IN_STEPS[2:3], "warmup_epochs and warmup_steps: both null"),
        (("training.steps=0", "training.epochs=null"), r"\$\.training\.steps: 0"),
    ],
)
def test_both_or_neither_is_one_problem(changes: tuple[str, ...], says: str) -> None:
    with pytest.raises(mk.RecipeError, match=says) as caught:
        mk.check(small(*QUICK, *changes))
    assert "1 problem" in str(caught.value)


def test_a_run_of_steps(tmp_path: Path) -> None:
    recipe = small(*QUICK, *IN_STEPS)
    assert workload(recipe).length(10_000) == 5
    run = mk.train(recipe, tmp_path / "run")
    assert (run / "model.safetensors").is_file()
    done = CliRunner().invoke(app, ["plan", str(run / "recipe.json"), "--images", "1000"])
    assert done.exit_code == 0 and " 5 " in done.output
    longer = recipe.changed("training", steps=8)
    assert mk.train(longer, run, extend=True) == run
