"""srun's tasks are one world; shells, batch scripts and single tasks are one process each."""

from __future__ import annotations

import pytest

import mage_kit as mk
from mage_kit.base.slurm import adopt_slurm, first_host

TASK = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "9", "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2),1",
    "SLURM_STEP_NODELIST": "node[03-05]",
}  # fmt: skip


def adopted(environment: dict[str, str]) -> dict[str, str]:
    """Return what is set beside what was there."""
    copy = dict(environment)
    adopt_slurm(copy)
    return {name: value for name, value in copy.items() if environment.get(name) != value}


def test_a_task_of_several_is_a_process_of_the_run() -> None:
    new = adopted(TASK)
    port = int(new.pop("MASTER_PORT"))
    assert new == {
        "RANK": "5", "WORLD_SIZE": "9", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node03",
    }  # fmt: skip
    last = adopted({**TASK, "SLURM_PROCID": "8", "SLURM_LOCALID": "0", "SLURM_NODEID": "2"})
    assert last["LOCAL_WORLD_SIZE"] == "1" and last["MASTER_PORT"] == str(port) and 20_000 <= port < 40_000
    assert adopted({**TASK, "SLURM_JOB_ID": "1235"})["MASTER_PORT"] != str(port), "jobs of one node differ"
    assert "MASTER_PORT" not in adopted({**TASK, "MASTER_PORT": "29500"})


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {**TASK, "SLURM_STEP_ID": "batch"},
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},
        {**TASK, "RANK": "0", "WORLD_SIZE": "2"},
    ],
)
def test_one_process_by_itself(other: dict[str, str]) -> None:
    assert adopted(other) == {}


@pytest.mark.parametrize(
    ("names", "first"),
    [("node[03-07,9],login", "node03"), ("a,b", "a"), ("gpu-2", "gpu-2"), ("rack[1,4]-ib", "rack1-ib")],
)
def test_the_first_host(names: str, first: str) -> None:
    assert first_host(names) == first


def test_tasks_that_do_not_know_who_they_are() -> None:
    missing = {name: value for name, value in TASK.items() if name != "SLURM_PROCID"}
    with pytest.raises(mk.MageKitError, match="SLURM started 9 tasks, and says no SLURM_PROCID; start them"):
        adopt_slurm(missing)
    with pytest.raises(mk.MageKitError, match="SLURM_STEP_TASKS_PER_NODE: 'many'"):
        adopt_slurm({**TASK, "SLURM_STEP_TASKS_PER_NODE": "many"})
