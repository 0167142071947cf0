"""Compile every Triton kernel for sm_90 ahead of time; needs no GPU. Run as a program: the interpreter must be off.

Prints one JSON object: kernel and dtype to how many vector loads and stores its PTX has.
"""

from __future__ import annotations

import json
import re
from typing import Any

import triton
from mage_kernels.triton import embed_kernel as embed
from mage_kernels.triton import pad_kernel as pad
from mage_kernels.triton import remask_kernel as remask
from mage_kernels.triton import sample_kernel as sample
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
INDEX, SINGLE, INT = "*i64", "*fp32", "i32"


def cases(number: str) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """Kernel, types of its arguments and constants, by name, for tensors of one dtype (ViT-L's width)."""
    sizes = {"S": INT, "N": INT, "D": INT}
    grid = {"S": INT, "N": INT, "E": INT}
    tables = {"table": number, "positions": number, "weight": number}
    return {
        "embed.forward": (
            embed.forward,
            {"rows": INDEX, "kept": INDEX, **tables, "bias": number, "out": number, "mean": SINGLE, "rstd": SINGLE,
             **sizes, "eps": "fp32"},
            {"HAS_NORM": True, "BLOCK_D": 1024},
        ),
        "embed.backward": (
            embed.backward,
            {"grad": number, "rows": INDEX, "kept": INDEX, **tables, "mean": SINGLE, "rstd": SINGLE, "inner": SINGLE,
             "table_grad": SINGLE, "partial": SINGLE, **sizes, "tokens": INT, "hot": INT},
            {"HAS_NORM": True, "ATOMIC": True, "RUN": embed.RUN, "BLOCK_D": 1024},
        ),
        "embed.position_grad": (
            embed.position_grad,
            {"inner": SINGLE, "slot": INDEX, "out": SINGLE, "B": INT, **sizes},
            {"BLOCK_D": 128},
        ),
        "pad.forward": (
            pad.forward,
            {"latents": number, "slot": INDEX, "positions": number, "fill": number, "out": number, **grid},
            {"HAS_FILL": True, "BLOCK_E": 1024},
        ),
        "pad.latents_grad": (
            pad.latents_grad,
            {"grad": number, "slot": INDEX, "out": number, "fill_partial": SINGLE, **grid},
            {"HAS_FILL": True, "BLOCK_E": 128},
        ),
        "pad.positions_grad": (
            pad.positions_grad,
            {"grad": number, "out": SINGLE, "B": INT, "N": INT, "E": INT},
            {"BLOCK_E": 128},
        ),
        "sample.sample": (
            sample.sample,
            {"logits": number, "masked": "*u8", "uniform": "*fp64", "ids": INDEX, "log_p": SINGLE, "V": INT,
             "stride": INT},
            {"BLOCK_V": 1024},
        ),
        "remask.ranks": (
            remask.ranks,
            {"score": SINGLE, "masked": "*u8", "count": INDEX, "out": "*u8", "L": INT},
            {"BLOCK_L": 256, "CHUNK": 32},
        ),
    }  # fmt: skip


def main() -> None:
    """Compile all of it and print what came out."""
    found = {}
    for number in ("*bf16", "*fp32"):
        for name, (kernel, types, constants) in cases(number).items():
            names = list(types)
            signature = {**types, **dict.fromkeys(constants, "constexpr")}
            # What the launcher sees at run time: pointers and widths divisible by 16.
            even = [i for i, key in enumerate(names) if types[key].startswith("*") or key in ("D", "E", "V", "stride")]
            attributes = {(i,): [["tt.divisibility", 16]] for i in even}
            source = ASTSource(kernel, signature, constants, attributes)
            warps = 1 if 128 in constants.values() else 4  # as the operators launch them
            compiled = triton.compile(source, target=TARGET, options={"num_warps": warps})
            ptx = compiled.asm["ptx"]
            assert ".target sm_90" in ptx
            found[f"{name} {number[1:]}"] = len(re.findall(r"(?:ld|st)\.global[\w.]*\.v[24]", ptx))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
