"""A thousand kills: whatever moment a training is killed at, it goes on and ends in the bits of the unbroken one.

`python -m benchmarks.kills` goes on where it was left; each finished chain is a file of benchmarks/results/kills. A
chain is one run folder whose trainings are killed some twenty times, by SIGKILL or SIGTERM: within the first second,
later, or inside writing, at the k-th rename or sync of a file. After each death the lock must be free within a second,
and the folder must be one that `train` or `--resume` accepts. Of two processes the other must notice: one that waits
for the dead one to come at the start is stopped, as torchrun does with it, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from safetensors.numpy import load_file

from mage_kit.base.files import LOCK_FILE, write_json
from mage_kit.base.processes import start as meet
from mage_kit.base.progress import Reporter
from mage_kit.recipes import Recipe
from mage_kit.store.folders import RECIPE_FILE
from mage_kit.training.engine import make_fabric as make_fabric  # imported before the forks: a life is training alone
from mage_kit.training.train import train

RESULTS = Path(__file__).parent / "results" / "kills"
CHAINS, KILLS = 70, 20
FORMS = tuple(itertools.product((1, 2), (0, 2)))  # processes, loading workers
PATIENCE, FREE = 20.0, 1.0  # seconds: for the other process to notice, and for the lock to be free
SMALL = (
    "tokenizer.base_channels=8",
    "tokenizer.quantizer.codes=32",
    'model.encoder={"kind": "vit", "dim": 32, "depth": 2, "heads": 2, "dropout": 0.1}',
    'model.decoder={"kind": "vit", "dim": 32, "depth": 1, "heads": 2, "dropout": 0.1}',
    "tokenizer_training.steps=40",
    "tokenizer_training.batch=32",
    "training.epochs=8",
    "training.warmup_epochs=1",
    "training.log_every=4",
    "training.checkpoint_every=6",
    "tokenizer_training.log_every=4",
    "tokenizer_training.checkpoint_every=5",
)


@dataclass
class Chain:
    """One run folder and what became of it.

    Args:
        number: Of the chain; its draws follow it.
        processes: That train.
        workers: That load images, in each.
        kills: How often it was killed, by signal and moment.
        lock_seconds: The longest that a lock outlived its process.
        deaf_seconds: The longest that another process went on without the killed one.
        stopped: How often the other process was stopped before the two had met.
    """

    number: int
    processes: int
    workers: int
    kills: Counter[str] = field(default_factory=Counter)
    lock_seconds: float = 0.0
    deaf_seconds: float = 0.0
    stopped: int = 0


def recipe_of(workers: int) -> Recipe:
    """Return the recipe that all chains train: both stages, checkpoints every few steps."""
    loading = (f"training.workers={workers}", f"tokenizer_training.workers={workers}")
    return Recipe.load(Path(__file__).parents[1] / "recipes" / "digits.json", [*SMALL, *loading])


def start(chain: Chain, out: Path, break_at: int | None = None) -> list[int]:
    """Fork the processes of one training; return their numbers.

    Args:
        chain: Says how many.
        out: The run's folder, gone on with where it is a run's.
        break_at: The first of them kills itself at this rename or sync; None for never.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [os.fork() or _train(chain, out, rank, port, break_at) for rank in range(chain.processes)]


def _train(chain: Chain, out: Path, rank: int, port: int, break_at: int | None) -> NoReturn:
    try:
        torch.set_num_threads(1)
        os.setpgid(0, 0)
        if chain.processes > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(chain.processes))
            os.environ.update(LOCAL_WORLD_SIZE=str(chain.processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            meet(torch.device("cpu"))
            (out.parent / f"met-{os.getpid()}").touch()
        if break_at is not None and rank == 0:
            _break(break_at)
        train(recipe_of(chain.workers), out, resume=(out / RECIPE_FILE).is_file(), reporter=Reporter.silent())
    except BaseException as error:
        if type(error).__name__ == "TrainingStopped":
            os._exit(3)
        (out.parent / f"error-{rank}.txt").write_text(traceback.format_exc())
        os._exit(4)
    os._exit(0)


def _break(count: int) -> None:
    """Kill this process inside writing: in the middle of its count-th rename or sync, before or after it is done."""
    calls = itertools.count(1)
    for name in ("replace", "rename", "fsync"):
        real = getattr(os, name)

        def call(*words: Any, real: Any = real, **options: Any) -> Any:
            number = next(calls)
            if number == count and count % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*words, **options)
            if number == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, name, call)


def wait(process: int, seconds: float) -> int | None:
    """Return a process's status, or None if it goes on for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    return None


def live(chain: Chain, out: Path, draw: random.Random) -> bool:
    """Train once, and kill it; return whether it came to its end before."""
    moment = draw.choice(("first second", "later", "later", "writing"))
    sent = signal.SIGKILL if moment == "writing" else draw.choice((signal.SIGKILL, signal.SIGTERM))
    pids = start(chain, out, draw.randrange(1, 60) if moment == "writing" else None)
    victim = 0 if moment == "writing" else draw.randrange(len(pids))
    delay = draw.uniform(0, 1) if moment == "first second" else draw.uniform(0.5, 2.5 * chain.processes)
    status = wait(pids[victim], 60 if moment == "writing" else delay)
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[victim], sent)
        status = wait(pids[victim], PATIENCE)
    death = time.monotonic()
    assert status is not None, f"chain {chain.number}: {signal.Signals(sent).name} did not end it in {PATIENCE:g} s"
    for pid in pids[:victim] + pids[victim + 1 :]:
        _end_other(chain, pid, death, out.parent)
    _check_lock(chain, out)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == sent, f"chain {chain.number}: died of {signal.Signals(os.WTERMSIG(status)).name}"
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 3:
        chain.kills[f"{signal.Signals(sent).name} {moment}"] += 1
        return False
    errors = "".join(path.read_text()[-2000:] for path in out.parent.glob("error-*.txt"))
    assert os.WEXITSTATUS(status) == 0, f"chain {chain.number}: refused or failed: {errors}"
    return True


def _end_other(chain: Chain, pid: int, death: float, home: Path) -> None:
    """Wait until the process that was not killed ends too; stop it if it still waits for the other one to come."""
    met = home / f"met-{pid}"
    status = None if met.is_file() else wait(pid, 2.0)
    if status is None and not met.is_file():
        os.kill(pid, signal.SIGTERM)
        chain.stopped += 1
    if status is None:
        status = wait(pid, PATIENCE)
    chain.deaf_seconds = max(chain.deaf_seconds, time.monotonic() - death)
    assert status is not None, f"chain {chain.number}: another process went on for {PATIENCE:g} s"


def _check_lock(chain: Chain, out: Path) -> None:
    """Measure how long the lock outlives the processes."""
    begin = time.monotonic()
    while (out / LOCK_FILE).is_file():
        with (out / LOCK_FILE).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() - begin < FREE, f"chain {chain.number}: the lock outlives its process"
        time.sleep(0.005)
    chain.lock_seconds = max(chain.lock_seconds, time.monotonic() - begin)


def run_chain(chain: Chain, home: Path, unbroken: Path) -> dict[str, Any]:
    """Kill a run until it has been killed often enough or came to its end; return what became of it."""
    out, draw, begin = home / "run", random.Random(f"kills-{chain.number}"), time.monotonic()
    done = False
    while not done and chain.kills.total() < KILLS:
        done = live(chain, out, draw)
    if not done:
        statuses = [wait(pid, 600) for pid in start(chain, out)]
        errors = "".join(path.read_text()[-2000:] for path in home.glob("error-*.txt"))
        assert statuses == [0] * chain.processes, f"chain {chain.number}: neither begun nor gone on with: {errors}"
    differing = _differing(out, unbroken)
    assert not differing, f"chain {chain.number}: {differing[:5]} are not those of the unbroken run"
    return {
        "chain": chain.number, "processes": chain.processes, "workers": chain.workers, "kills": dict(chain.kills),
        "equal": True, "lock_seconds": round(chain.lock_seconds, 3), "others_seconds": round(chain.deaf_seconds, 3),
        "stopped": chain.stopped, "seconds": round(time.monotonic() - begin, 1), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def _differing(one: Path, other: Path) -> list[str]:
    """Names of tensors that differ between two finished runs, bit for bit."""
    names = []
    for file in ("model.safetensors", "tokenizer/tokenizer.safetensors"):
        mine, theirs = load_file(one / file), load_file(other / file)
        names += [file] if mine.keys() != theirs.keys() else []
        names += [name for name in mine if mine[name].tobytes() != theirs[name].tobytes()]
    return names


def main() -> None:
    """Run chains until the time is up or all are done; print where it stands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=38.0, help="stop beginning chains after so long")
    parser.add_argument("--chains", type=int, default=CHAINS)
    options = parser.parse_args()
    end, console = time.monotonic() + 60 * options.minutes, Console(stderr=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        whole: dict[tuple[int, int], Path] = {}
        for number in range(options.chains):
            file = RESULTS / f"chain-{number:03d}.json"
            if file.is_file():
                continue
            if time.monotonic() > end:
                break
            processes, workers = FORMS[number % len(FORMS)]
            if (processes, workers) not in whole:
                whole[processes, workers] = _unbroken(processes, workers, Path(place))
            home = Path(place) / f"chain-{number}"
            home.mkdir()
            result = run_chain(Chain(number, processes, workers), home, whole[processes, workers])
            write_json(file, result)
            shutil.rmtree(home)
            console.print(f"chain {number}: {json.dumps(result)}", soft_wrap=True, highlight=False)
    console.print(summary(), soft_wrap=True, highlight=False)


def _unbroken(processes: int, workers: int, place: Path) -> Path:
    out = place / f"unbroken-{processes}-{workers}" / "run"
    out.parent.mkdir()
    statuses = [wait(pid, 900) for pid in start(Chain(-1, processes, workers), out)]
    assert statuses == [0] * processes, [path.read_text() for path in out.parent.glob("error-*.txt")]
    return out


def summary() -> str:
    """Return what all chains so far say, in a line."""
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("chain-*.json"))]
    kinds: Counter[str] = Counter()
    equal = sum(result["equal"] for result in results)
    for result in results:
        kinds.update(result["kills"])
    lock = max((result["lock_seconds"] for result in results), default=0.0)
    words = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    total = f"{kinds.total()} kills in {len(results)} chains ({words})"
    return f"{total}; {equal} equal the unbroken run; a lock lived {lock:g} s at most"


if __name__ == "__main__":
    main()
