"""A training step under the engines of several processes, with one of them: what DDP and FSDP2 cost by themselves.

python -m benchmarks.engine_forms --model vitb --json FILE [--images 64] [--toy]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from typing import Any

import torch
import torch.distributed as dist
from mage_kernels.attention_choice import seconds_of
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from benchmarks.part_command import failure, part_parser, positive
from benchmarks.sides import TOY, Bench, Settings
from mage_kit.optimizers import AdamW, set_lr
from mage_kit.training.engine import shard_module

FORMS = ("alone", "DDP", "FSDP2", "FSDP2, compiled")


def figures(settings: Settings, device: torch.device, form: str, toy: bool) -> dict[str, Any]:
    """Return seconds a step, or why there are none."""
    try:
        bench = Bench(settings, device, "mage_kit", compiled=False)
        if form == "DDP":
            bench.module = DistributedDataParallel(bench.model, broadcast_buffers=False, gradient_as_bucket_view=True)
        elif form.startswith("FSDP2"):
            mesh = init_device_mesh(device.type, (1,), mesh_dim_names=("data_parallel",))
            bench.model.tokenizer.requires_grad_(False)
            shard_module(bench.model, mesh, bfloat16=bench.dtype == torch.bfloat16)
            bench.optimizer = AdamW()(dict(bench.model.trainable()))
            set_lr(bench.optimizer, 1e-6)
        if form.endswith("compiled"):
            bench.compile(**({"backend": "aot_eager"} if toy else {}))
        bench.ours(live=False)
        return {"seconds": seconds_of(lambda: bench.ours(live=False), device, 1 if toy else 8)}
    except Exception as error:  # one engine must not cost the others' figures
        return failure(error)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    words = part_parser(__doc__)
    words.add_argument("--model", choices=("vitb", "vitl"), default="vitb")
    words.add_argument("--images", type=positive, default=64, help="images at once")
    return words


def main() -> None:
    """Measure, print, write."""
    options = parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(options.images, 0.1, 16, options.model)
    if options.toy:
        settings = Settings(options.images, 0.1, 4, options.model, 2, TOY)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    result: dict[str, Any] = {"model": options.model, "images": options.images, "forms": {}}
    for form in FORMS:
        result["forms"][form] = figures(settings, device, form, options.toy)
        print(form, result["forms"][form], flush=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
