"""What tests/training/test_processes.py runs in one, two or more processes; each call leaves a file of tensors.

python -m tests.training.process_program gradients|tokenizer|engines|contest RECIPE OUT [shard]
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.base import processes
from mage_kit.layers.block_settings import WithBlocks
from mage_kit.layers.blocks import Block
from mage_kit.optimizers import set_lr, take_step
from mage_kit.training.clipping import clip_divisor, gradient_norm
from mage_kit.training.tasks import TrainingStep
from tests.loops import loop_of


def gradients(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Loss, gradients and their norm of one step; metrics; and this process's masks."""
    loop = loop_of(recipe, shard=shard)
    (player,), task = loop.players, loop.task
    (batch,) = loop.batches(3, 4)
    loss = processes.add_up(loop.gradients(batch, 3))
    result = {name: processes.whole(held.grad).clone() for name, held in player.names.items() if held.grad is not None}
    assert result.keys() == player.names.keys()
    norm = gradient_norm(player.names.values())
    result["norm"] = norm.double()
    set_lr(player.optimizer, player.rate.peak)
    take_step(player.optimizer, torch.zeros(()), clip_divisor(norm, 1e-3))
    result["clipped_norm"] = gradient_norm(player.names.values()).double()
    result |= {f"after.{name}": processes.whole(held) for name, held in player.names.items()}
    record = task.read()
    result["loss"] = torch.tensor([float(loss), record["loss"], record.get("accuracy", 0.0)], dtype=torch.float64)
    index = processes.collect(batch.index_B.tolist())
    result["index"] = torch.tensor([place for part in index for place in part])
    pieces = task.cut(batch, TrainingStep(3, loop.job.steps, recipe.seed))
    plans = [task.model.plan(piece.masks.ratio_B, piece.noise_TL).masked_BL for piece in pieces]
    mine = torch.cat([masked.unflatten(0, (batch.views, -1)) for masked in plans], dim=1)
    masks = processes.collect(mine.tolist())
    result["masks"] = torch.tensor([[row for part in masks for row in part[view]] for view in range(batch.views)])
    return result


def engines(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Gradients of one step, as they are written, compiled, recomputed and both, in float32 and bfloat16."""
    passed, result = WithBlocks.compile_training, {}
    WithBlocks.compile_training = lambda self: passed(self, backend="aot_eager")  # type: ignore[method-assign]  # no C++
    for precision, compiled, recompute in itertools.product(("float32", "bfloat16"), (False, True), (False, True)):
        torch.compiler.reset()
        changed = recipe.changed("kernels", compile=compiled, recompute=recompute)
        loop = loop_of(changed, shard=shard, precision=precision)
        (player,), (batch,) = loop.players, loop.batches(3, 4)
        loss = processes.add_up(loop.gradients(batch, 3))
        name = f"{precision}.{compiled}.{recompute}"
        result[f"{name}.loss"] = loss.double()
        for key, value in player.names.items():
            assert value.grad is not None and value.grad.dtype == torch.float32
            result[f"{name}.{key}"] = processes.whole(value.grad).clone()
        if shard and processes.world() > 1:
            block = next(part for part in player.module.modules() if isinstance(part, Block))
            policy = block._get_fsdp_state()._mp_policy  # type: ignore[operator]  # FSDP2's own
            low = torch.bfloat16 if precision == "bfloat16" else None
            assert policy.param_dtype == low and policy.reduce_dtype == (torch.float32 if low else None)
    return result


def tokenizer(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Weights and codebook after 25 steps, over two restarts of dead codes."""
    parts = mk.build(recipe)
    loop = loop_of(recipe, "tokenizer_training", parts=parts)
    (player,) = loop.players
    for step, batch in enumerate(loop.batches(0, 25)):
        loop.gradients(batch, step)
        set_lr(player.optimizer, player.rate.peak)
        player.optimizer.step()
        player.optimizer.zero_grad()
    record = loop.task.read()
    result = {name: tensor.clone() for name, tensor in parts.tokenizer.state_dict().items()}
    result["record"] = torch.tensor([record["loss"], record["codes_used"]], dtype=torch.float64)
    return result


def contest(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Gradients of both players of an adversarial task in one step, what the adversary remembers, and metrics."""
    loop = loop_of(recipe)
    task, step = loop.task, loop.job.steps - 1
    task.judge.lecam.means.copy_(torch.tensor([0.3, -0.2]))
    (batch,) = loop.batches(step, step + 1)
    objectives = processes.add_up(loop.gradients(batch, step))
    result = {"objectives": objectives.double(), "lecam": task.judge.lecam.means.double()}
    for player in loop.players:
        result |= {f"{player.name}.{name}": value.grad.clone() for name, value in player.names.items()}
    record = task.read()
    names = ("adversary_loss", "lecam", "gradient_penalty", "deceiving", "adaptive_weight", "accuracy", "entropy")
    result["record"] = torch.tensor([record[name] for name in names if name in record], dtype=torch.float64)
    return result


def main() -> None:
    torch.set_num_threads(1)
    processes.start(torch.device("cpu"))
    what, path, out = sys.argv[1:4]
    work = {"gradients": gradients, "tokenizer": tokenizer, "engines": engines, "contest": contest}[what]
    result = work(mk.Recipe.load(path), "shard" in sys.argv[4:])
    if processes.is_first():
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in result.items()}, Path(out))
    processes.leave(0)


if __name__ == "__main__":
    main()
