"""Several machines, emulated on one: torchrun's agents as documented, and SLURM's batch script with stand-ins."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_training import small

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
SCRIPT = ROOT / "examples" / "slurm.sbatch"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def documented() -> str:
    """The line of docs/scaling.md that starts a run on several machines."""
    (line,) = re.findall(r"^torchrun .*$", (ROOT / "docs" / "scaling.md").read_text(), re.MULTILINE)
    return str(line)


def recipe(folder: Path, *changes: str) -> Path:
    path = folder / "recipe.json"
    path.write_text(small("training.epochs=0.5", "training.precision=float32", *changes).to_json())
    return path


def equal(one: Path, two: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return all(torch.equal(first[name], second[name]) for name in first)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_agents_form_a_group_as_documented(tmp_path: Path) -> None:
    port, path = free_port(), recipe(tmp_path)
    line = (
        documented()
        .replace("HOST", "127.0.0.1")
        .replace("29400", str(port))
        .replace("--nproc-per-node 8", "--nproc-per-node 1")
    )
    line = (
        line.replace("RECIPE", str(path))
        .replace("SHARED_FOLDER", str(tmp_path / "run"))
        .replace("--nnodes N", "--nnodes 2")
    )
    words = [str(BIN / "torchrun"), *line.split()[1:]]
    environment = os.environ | ONE_THREAD
    agents = [
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    texts = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], texts
    assert any("2 processes" in text for text in texts)
    here = [str(BIN / "mage-kit"), "train", str(path), "--out", str(tmp_path / "here"), "--processes", "2"]
    subprocess.run(here, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert equal(tmp_path / "run", tmp_path / "here")


def test_the_batch_script_is_a_script() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")
    assert "#SBATCH --signal=B:USR1@300" in SCRIPT.read_text()


SRUN = """#!/usr/bin/env python3
# Starts two tasks with SLURM's variables, hands SIGUSR1 on to them, and kills them when it is terminated, as srun does.
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if word not in ("--kill-on-bad-exit=1", "--cpus-per-task=1")]
common = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0",
          "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
tasks = [subprocess.Popen(words, env=os.environ | common | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
         for n in range(2)]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
signal.signal(signal.SIGTERM, lambda *_: [task.kill() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$REQUEUED"
"""


@pytest.mark.slow
def test_a_job_told_that_its_time_is_up_saves_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(stat.S_IRWXU)
    requeued = tmp_path / "requeued"
    environment = os.environ | ONE_THREAD | {
        "PATH": f"{stand_ins}:{BIN}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "REQUEUED": str(requeued),
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    path, out = recipe(tmp_path, "training.epochs=4", "training.log_every=1"), tmp_path / "run"
    words = ["bash", str(SCRIPT), str(path), str(out)]
    job = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log, until = out / "metrics.jsonl", time.monotonic() + 200
    while not (log.is_file() and '"model"' in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    text = job.communicate(timeout=200)[0]
    assert job.returncode == 0 and "is saved; go on with --resume" in text, text
    assert requeued.read_text() == "requeue 77\n" and not (out / "model.safetensors").exists()
    again = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (out / "model.safetensors").is_file() and requeued.read_text() == "requeue 77\n", "it is done"
