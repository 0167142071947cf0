"""Compiled and recomputed blocks over two processes give the gradients of one process as it is written."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.training.test_processes import DRY, run
from tests.training.test_training import small


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("shard",)], ids=["whole", "sharded"])
def test_compiled_and_recomputed_blocks_give_the_same_gradients(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Over two processes, each with whole models or with parts of one, against one process as it is written."""
    recipe = small(*DRY, "training.batch=8")
    one = run("engines", recipe, tmp_path, 1)
    two = run("engines", recipe, tmp_path, 2, *flags)
    names = [name.removeprefix("float32.False.False.") for name in one if name.startswith("float32.False.False.")]
    settings = itertools.product(("float32", "bfloat16"), (False, True), (False, True))
    for form in (f"{precision}.{compiled}.{recompute}" for precision, compiled, recompute in settings):
        limit = 1e-4 if form.startswith("float32") else 2e-2
        for result in (one, two):
            for name in names:
                plain, other = one[f"float32.False.False.{name}"], result[f"{form}.{name}"]
                assert float((plain - other).norm()) <= limit * float(plain.norm()) + 1e-7, (form, name)
