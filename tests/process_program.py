"""What tests/test_processes.py runs in one, two or more processes; each call leaves a file of tensors.

python -m tests.process_program gradients|tokenizer RECIPE OUT [shard]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mage_kit.training.model_stage import ModelStage
from mage_kit.training.tokenizer_stage import TokenizerStage
from safetensors.torch import save_file
from torch import Tensor

import mage_kit as mk
from mage_kit import processes
from mage_kit.training.engine import make_fabric
from mage_kit.training.optim import clip_gradients


def gradients(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Loss, gradients and their norm of one step; metrics; and this process's masks."""
    stage = ModelStage(
        recipe, recipe.build_dataset(), recipe.build_model(), make_fabric(torch.device("cpu"), "float32", shard)
    )
    (batch,) = stage.batches(3, 4)
    loss = processes.add_up(stage.gradients(batch, 3, 0.0))
    result = {name: processes.whole(held.grad).clone() for name, held in stage.names.items() if held.grad is not None}
    assert result.keys() == stage.names.keys()
    result["norm"] = torch.tensor(clip_gradients(stage.names.values(), 1e-3), dtype=torch.float64)
    result["clipped_norm"] = torch.tensor(clip_gradients(stage.names.values(), None), dtype=torch.float64)
    stage.optimizer.step()
    result |= {f"after.{name}": processes.whole(held) for name, held in stage.names.items()}
    record = stage.read()
    result["loss"] = torch.tensor([float(loss), record["loss"], record["accuracy"]], dtype=torch.float64)
    index = processes.collect(batch.index_B.tolist())
    result["index"] = torch.tensor([place for part in index for place in part])
    micros, _ = stage._micros(batch, 3)
    plans = [stage.model.plan(masks.ratio_B, noise).masked_BL for _, masks, noise, _ in micros]
    mine = torch.cat([masked.unflatten(0, (batch.views, -1)) for masked in plans], dim=1)
    masks = processes.collect(mine.tolist())
    result["masks"] = torch.tensor([[row for part in masks for row in part[view]] for view in range(batch.views)])
    return result


def tokenizer(recipe: mk.Recipe, shard: bool) -> dict[str, Tensor]:
    """Weights and codebook after 25 steps, over two restarts of dead codes."""
    made = recipe.build_tokenizer()
    stage = TokenizerStage(recipe, recipe.build_dataset(), made, make_fabric(torch.device("cpu"), "float32"))
    for step, batch in enumerate(stage.batches(0, 25)):
        stage.gradients(batch, step, step / 100)
        stage.optimizer.step()
        stage.optimizer.zero_grad()
    record = stage.read()
    result = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    result["record"] = torch.tensor([record["loss"], record["codes_used"]], dtype=torch.float64)
    return result


def main() -> None:
    torch.set_num_threads(1)
    processes.start(torch.device("cpu"))
    what, path, out = sys.argv[1:4]
    work = {"gradients": gradients, "tokenizer": tokenizer}[what]
    result = work(mk.Recipe.load(path), "shard" in sys.argv[4:])
    if processes.is_first():
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in result.items()}, Path(out))
    processes.leave(0)


if __name__ == "__main__":
    main()
