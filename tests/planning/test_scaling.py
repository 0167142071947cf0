"""A step over more processes, simulated: what must hold whatever the numbers."""

from __future__ import annotations

import itertools
import json

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.planning import Machine, estimate
from mage_kit.planning.scaling import bucket_bytes, scale, wait_for_link
from mage_kit.recipes.workload import workload
from tests.recipes.test_recipe import RECIPES


def test_a_link_that_keeps_up_is_waited_for_by_its_last_message_alone() -> None:
    assert wait_for_link(3.0, [0.1] * 4) == pytest.approx(0.1)
    assert wait_for_link(3.0, [0.0] * 4) == 0
    # forward 1 s; blocks are done at 1.5, 2, 2.5, 3 s; the link carries one from 1.5 to 2.5 and so on to 5.5 s
    assert wait_for_link(3.0, [1.0] * 4) == pytest.approx(2.5)


def test_more_processes_compute_less_each_and_wait_more() -> None:
    recipe = mk.Recipe.load(RECIPES / "mage_vitl.json")
    work, machine = workload(recipe), Machine(processes=8, tflops=790, utilization=0.5, bandwidth=50)
    lines = scale(estimate(work, machine), work.model, machine, (1, 8, 64, 512, 3), 300)
    assert [line.processes for line in lines] == [1, 8, 64, 512], "2,048 images are no multiple of 3"
    assert lines[0].waiting == pytest.approx(0) and lines[0].efficiency == pytest.approx(1) and lines[0].traffic == 0
    assert all(one.computing == pytest.approx(8 * two.computing) for one, two in itertools.pairwise(lines))
    assert all(one.efficiency > two.efficiency for one, two in itertools.pairwise(lines))
    trained = 4.0 * sum(value.numel() for _, value in work.model.trainable())
    assert sum(bucket_bytes(work.model)) == pytest.approx(trained)
    assert lines[1].traffic == pytest.approx(2 * 7 / 8 * trained)


def test_the_command_prints_it() -> None:
    done = CliRunner().invoke(app, ["plan", str(RECIPES / "mage_vitl.json"), "--json", "--node-bandwidth", "400"])
    assert done.exit_code == 0, done.output
    assert [line["processes"] for line in json.loads(done.output)["scaling"]] == [1, 8, 64, 512]
