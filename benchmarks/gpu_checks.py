"""What must hold on the device itself, and what no CPU can show: each check a line of the JSON.

python -m benchmarks.gpu_checks --json FILE [--toy]
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import mage_kit as mk
from benchmarks.part_command import part_parser
from benchmarks.sides import TOY, Bench, Settings
from mage_kit.generation import graphs
from mage_kit.optimizers import take_step

SETTINGS = Settings(4, 0.0, 4, "vitb", 2, TOY)
CPU = torch.device("cpu")


def a_step_waits_for_nothing(device: torch.device) -> None:
    """After a first step, in which libraries set themselves up, the host reads nothing from the device."""
    bench = Bench(SETTINGS, device, "mage_kit", compiled=False)
    bench.ours(live=True)
    with _no_waiting(device):
        bench.ours(live=False)


@contextlib.contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def a_step_that_is_not_finite_is_left_out(device: torch.device) -> None:
    """Weights stay as they are, bit for bit, though the gradients are no numbers."""
    bench = Bench(SETTINGS, device, "mage_kit", compiled=False)
    bench.ours(live=False)
    before = {name: value.detach().clone() for name, value in bench.model.trainable()}
    for _, value in bench.model.trainable():
        value.grad = torch.full_like(value, float("nan"))
    take_step(bench.optimizer, torch.ones((), device=device), torch.full((), float("nan"), device=device))
    _demand(all(torch.equal(value, before[name]) for name, value in bench.model.trainable()), "weights have moved")


def compiled_blocks_learn_the_same(device: torch.device) -> None:
    """Losses of a few steps agree to 2e-2."""
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        bench = Bench(SETTINGS, device, "mage_kit", compiled=False)
        if compiled:
            bench.model.compile_training(**({} if device.type == "cuda" else {"backend": "aot_eager"}))
        torch.manual_seed(1)
        bench.ours(live=False)
        losses.append([float(value.detach().norm()) for _, value in bench.model.trainable()])
    distance = max(abs(one - two) / (abs(one) + 1e-6) for one, two in zip(*losses, strict=True))
    _demand(distance < 2e-2, f"weights after a step differ by {distance:.1e}")


def replays_give_the_tokens_of_passes(device: torch.device) -> None:
    """The same seed with graphs and without."""
    model = _model().to(device)
    most, ids = graphs.MOST_IMAGES, []
    try:
        for graphs.MOST_IMAGES in (0, most):
            ids.append(mk.generate(model, 3, steps=8, seed=1).ids_BL)
    finally:
        graphs.MOST_IMAGES = most
    _demand(torch.equal(*ids), f"{float((ids[0] != ids[1]).double().mean()):.1%} of the tokens differ")


def tokens_are_those_of_a_cpu(device: torch.device) -> None:
    """Images give the same ids, but for a few at the border between two codes."""
    tokenizer = _model().tokenizer
    images = torch.rand(8, tokenizer.channels, *tokenizer.image_size, generator=torch.Generator().manual_seed(0))

    def ids(where: torch.device) -> Tensor:
        with torch.no_grad():
            return tokenizer.to(where).encode(images.to(where)).cpu()

    share = float((ids(CPU) == ids(device)).double().mean())
    _demand(share >= 0.99, f"{share:.1%} of the ids agree")


def _model() -> mk.Mage:
    torch.manual_seed(0)
    return SETTINGS.recipe().build_model().eval()


def _demand(holds: bool, words: str) -> None:
    if not holds:
        raise ArithmeticError(words)


CHECKS: tuple[Callable[[torch.device], None], ...] = (
    a_step_waits_for_nothing,
    a_step_that_is_not_finite_is_left_out,
    compiled_blocks_learn_the_same,
    replays_give_the_tokens_of_passes,
    tokens_are_those_of_a_cpu,
)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    return part_parser(__doc__, "has no meaning here: the model is small anyway")


def main() -> None:
    """Check, print, write; the exit code is 1 if something does not hold."""
    options = parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"checks": {}}
    for check in CHECKS:
        try:
            check(device)
            outcome = "holds"
        except Exception as error:  # one check must not cost the others
            outcome = f"{type(error).__name__}: {error}"[:500]
        name = check.__name__.replace("_", " ")
        result["checks"][name] = outcome
        print(f"{name}: {outcome}", flush=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(any(outcome != "holds" for outcome in result["checks"].values()))


if __name__ == "__main__":
    main()
