"""The processes of one training run, where torch.distributed has been started; with one process nothing happens.

Components use these few functions, so that none of them needs an engine. All processes have to call them in the same
order, except inside `alone`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mage_kit.base.rendezvous import meet
from mage_kit.base.slurm import adopt_slurm

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_PATIENCE = timedelta(hours=2)  # the first process may have millions of files to list while the others wait

_alone = 0


def world() -> int:
    """Return the number of processes; 1 inside `alone` and where nothing was started."""
    return 1 if _alone or not _is_running() else dist.get_world_size()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if _is_running() else 0


def is_first() -> bool:
    """True in the process that writes files and speaks."""
    return rank() == 0


def started_by() -> tuple[int, int]:
    """Return (processes, processes on this machine), as torchrun's or srun's environment says; (1, 1) without one."""
    adopt_slurm()
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return 1, 1
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return processes, int(os.environ.get("LOCAL_WORLD_SIZE", str(processes)))


def start(device: torch.device) -> None:
    """Join the processes that torchrun started, if it did and they have not met yet.

    Raises:
        MageKitError: If they do not meet within ten minutes.
    """
    if started_by()[0] == 1 or _is_running():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    meet("nccl" if device.type == "cuda" else "gloo", _PATIENCE)


def shared(error: E) -> E:
    """Mark an error that every process raises at once, so that the first alone prints it."""
    error.told_by_first = True  # type: ignore[attr-defined]  # any exception takes attributes
    return error


def leave(code: int) -> NoReturn:
    """End the program. Among several processes without goodbyes, which would wait for one that is gone already."""
    if _is_running() and dist.get_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: for what one process tries out by itself."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def add_up(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it; without gradients."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def agree(flag: bool, device: torch.device) -> bool:
    """Return whether any process says yes."""
    return bool(add_up(torch.tensor(float(flag), device=device)) > 0) if world() > 1 else flag


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of the same shape in all processes along dimension 0, by rank, with gradients."""
    return tensor if world() == 1 else cast(Tensor, _Gather.apply(tensor))  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped


def collect(value: T) -> list[T]:
    """Return every process's value, by rank; values are pickled between our own processes."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def on_first(work: Callable[[], T]) -> T:
    """Let the first process do something; all get its result, or its error.

    Raises:
        Exception: Whatever the work raised, in every process, so that none waits for ever.
    """
    if world() == 1:
        return work()
    answer: list[Any] = [None, None]
    if is_first():
        try:
            answer[0] = work()
        except Exception as error:  # whatever it is, all processes raise it
            answer[1] = _portable(error)
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise shared(answer[1])
    return cast(T, answer[0])


def first_ahead(work: Callable[[], T]) -> T:
    """Let the first process do something, then all others; where it fails there, nobody else tries, and one speaks.

    Raises:
        Exception: The first process's, in every process.
    """
    results: list[T] = []
    on_first(lambda: results.append(work()))
    return results[0] if results else work()


def _portable(error: Exception) -> Exception:
    """Return an error as other processes can read it: some cannot be pickled, or not be made again."""
    try:
        again = pickle.loads(pickle.dumps(error))
        return error if type(again) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
    except Exception:  # whatever its class thought of
        return RuntimeError(f"{type(error).__name__}: {error}")


def all_or_none(work: Callable[[], T]) -> list[T]:
    """Let every process do its part; return all results, by rank, or raise the first one's error in all.

    Raises:
        Exception: Whatever the work raised in some process, in every process, so that none waits for ever.
    """
    if world() == 1:
        return [work()]
    outcome: tuple[T | None, Exception | None]
    try:
        outcome = (work(), None)
    except Exception as error:  # whatever it is, all processes raise it
        outcome = (None, _portable(error))
    outcomes = collect(outcome)
    for _, problem in outcomes:
        if problem is not None:
            raise shared(problem)
    return [cast(T, value) for value, _ in outcomes]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in full where it is sharded over processes, else itself; without gradients."""
    full = getattr(tensor.detach(), "full_tensor", None)
    return tensor.detach() if full is None else cast(Tensor, full())


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, sharing its memory; a plain tensor as it is."""
    part = getattr(tensor.detach(), "to_local", None)
    return tensor.detach() if part is None else cast(Tensor, part())


def sharded_like(tensor: Tensor, template: Tensor) -> Tensor:
    """Return a full tensor, held by every process, on the template's device and sharded as the template is."""
    full = tensor.to(template.device)
    if not hasattr(template, "device_mesh"):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(template, DTensor)
    return distribute_tensor(full, template.device_mesh, template.placements, src_data_rank=None)


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is the sum over the processes of what each wants of these rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.rows = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        mine = gradient.new_empty((ctx.rows, *gradient.shape[1:]))
        # Each process needs the sum of its own rows alone: the traffic of an all-reduce, halved. torch 2.13 renames it.
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        scatter(mine, gradient)
        return mine
