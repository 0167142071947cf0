"""Compile every Triton kernel ahead of time and read the machine code; needs no GPU.

Run as a program, for the interpreter must be off: `python disassembly.py 80 90 100 --sizes all`. Prints one JSON
object: kernel, dtype, sizes and architecture to what its code holds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from mage_kernels.triton import embed_kernel as embed
from mage_kernels.triton import pad_kernel as pad
from mage_kernels.triton import remask_kernel as remask
from mage_kernels.triton import sample_kernel as sample
from mage_kernels.triton.launching import TILE, WIDTH_BLOCK, block_of, warps_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.disasm import path_to_cuobjdump

INDEX, SINGLE, INT = "*i64", "*fp32", "i32"
Kernel = tuple[str, Any, dict[str, str], dict[str, Any], int]  # name, kernel, types, constants, warps


def token_kernels(number: str) -> Iterator[Kernel]:
    """Yield what moves tokens, for tensors of one dtype (ViT-L's width)."""
    sizes = {"S": INT, "N": INT, "D": INT}
    grid = {"S": INT, "N": INT, "E": INT}
    tables = {"table": number, "positions": number, "weight": number}
    walk = {"TILE": TILE}
    for norm in (True, False):
        yield (
            f"embed.forward norm={norm}", embed.forward,
            {"rows": INDEX, "kept": INDEX, **tables, "bias": number, "out": number, "mean": SINGLE, "rstd": SINGLE,
             **sizes, "eps": "fp32"},
            {"HAS_NORM": norm, "BLOCK_D": 1024}, warps_of(1024),
        )  # fmt: skip
        yield (
            f"embed.backward norm={norm}", embed.backward,
            {"grad": number, "rows": INDEX, "kept": INDEX, **tables, "mean": SINGLE, "rstd": SINGLE, "inner": SINGLE,
             "table_grad": SINGLE, "partial": SINGLE, **sizes, "tokens": INT, "hot": INT},
            {"HAS_NORM": norm, "ATOMIC": True, "RUN": embed.RUN, "BLOCK_D": 1024}, warps_of(1024),
        )  # fmt: skip
    yield (
        "embed.position_grad", embed.position_grad,
        {"inner": SINGLE, "slot": INDEX, "out": SINGLE, "B": INT, **sizes}, {**walk, "BLOCK_D": WIDTH_BLOCK}, 4,
    )  # fmt: skip
    for fill in (True, False):
        yield (
            f"pad.forward fill={fill}", pad.forward,
            {"latents": number, "slot": INDEX, "positions": number, "fill": number, "out": number, **grid},
            {"HAS_FILL": fill, "BLOCK_E": 1024}, warps_of(1024),
        )  # fmt: skip
        yield (
            f"pad.latents_grad fill={fill}", pad.latents_grad,
            {"grad": number, "slot": INDEX, "out": number, "fill_partial": SINGLE, **grid},
            {"HAS_FILL": fill, **walk, "BLOCK_E": WIDTH_BLOCK}, 4,
        )  # fmt: skip
    yield (
        "pad.positions_grad", pad.positions_grad,
        {"grad": number, "out": SINGLE, "B": INT, "N": INT, "E": INT}, {**walk, "BLOCK_E": WIDTH_BLOCK}, 4,
    )  # fmt: skip


def decoding_kernels(number: str, whole: bool) -> Iterator[Kernel]:
    """Yield what decodes, at the paper's sizes or at all that are promised."""
    for codes in (1024, 16_384, 65_536) if whole else (1024,):
        block, blocks = sample.blocks_of(codes)
        yield (
            f"sample V={codes}", sample.sample,
            {"logits": number, "masked": "*u8", "uniform": "*fp64", "ids": INDEX, "log_p": SINGLE, "V": INT,
             "stride": INT},
            {"BLOCK_V": block, "BLOCKS": blocks}, warps_of(block),
        )  # fmt: skip
    for length in (256, 1024, 4096) if whole and number == SINGLE else (256,):
        block = block_of(length)
        yield (
            f"remask L={length}", remask.ranks,
            {"score": SINGLE, "masked": "*u8", "count": INDEX, "out": "*u8", "L": INT},
            {"BLOCK_L": block, "CHUNK": remask.CHUNK}, remask.warps_of(block),
        )  # fmt: skip


def read(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, target: int) -> dict[str, int]:
    """Compile one kernel for one architecture; return what its machine code holds."""
    signature = {**types, **dict.fromkeys(constants, "constexpr")}
    # What the launcher sees at run time: pointers and widths divisible by 16.
    even = [i for i, key in enumerate(types) if types[key].startswith("*") or key in ("D", "E", "V", "stride")]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in even})
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tool = path_to_cuobjdump()
        code, usage = (
            subprocess.run([tool, word, str(cubin)], check=True, capture_output=True, text=True).stdout
            for word in ("-sass", "-res-usage")
        )
    resources = {name: int(count) for name, count in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "vectors": len(re.findall(r"(?:ld|st)\.global[\w.]*\.v[24]", compiled.asm["ptx"])),
        "registers": resources["REG"],
        "spilled": resources["STACK"] + resources["LOCAL"] + len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "fences": len(re.findall(r"\b(?:MEMBAR|ERRBAR|CCTL)\b", code)),
        # A subroutine returns; on sm_80 a loop's end may be written as a call that does not.
        "subroutines": len(re.findall(r"\bRET\b", code)),
    }


def main() -> None:
    """Compile all of it and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", type=int, nargs="+")
    parser.add_argument("--sizes", choices=("paper", "all"), default="paper")
    options = parser.parse_args()
    found = {}
    for number in ("*bf16", "*fp32"):
        for name, *kernel in (*token_kernels(number), *decoding_kernels(number, options.sizes == "all")):
            for target in options.targets:
                found[f"{name} {number[1:]} sm_{target}"] = read(*kernel, target)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
