"""Quantizers: the contract over every registered one, chunks that change nothing, memory that stays small."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mage_kit as mk
from mage_kit.quantizers import codebook
from tests import build

KINDS = {
    "ema": lambda: mk.EMACodebook(codes=32, width=6),
    "ema at unit length": lambda: mk.EMACodebook(codes=32, width=6, unit=True),
    "gradient": lambda: mk.GradientCodebook(codes=32, width=6),
    "gradient at unit length": lambda: mk.GradientCodebook(codes=32, width=6, unit=True),
}


def features(count: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(count, 16, 6, generator=torch.Generator().manual_seed(seed))


def spread(quantizer: mk.Quantizer) -> mk.Quantizer:
    with torch.no_grad():
        quantizer.embedding.weight.normal_(generator=torch.Generator().manual_seed(1))
    return quantizer


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract(kind: str) -> None:
    quantizer, values = spread(KINDS[kind]()), features()
    ids_BL = quantizer.nearest(values)
    assert ids_BL.shape == (20, 16) and ids_BL.dtype == torch.int64
    codes_VW = quantizer.lookup(torch.arange(32))
    by_hand = torch.cdist(quantizer.prepare(values).double().flatten(0, 1), codes_VW.double()).argmin(dim=1)
    assert torch.equal(ids_BL.flatten(), by_hand)
    assert torch.equal(quantizer.nearest(quantizer.lookup(ids_BL)), ids_BL), "a code is its own nearest"
    one_hot = F.one_hot(ids_BL, 32).float()
    torch.testing.assert_close(quantizer.means(one_hot), quantizer.lookup(ids_BL))
    quantizer.start_training()
    learned = values.clone().requires_grad_()
    made = quantizer(learned, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.codes_BLW, quantizer.lookup(made.ids_BL), rtol=1e-5, atol=1e-6)
    (made.codes_BLW.sum() + made.loss).backward()
    assert learned.grad is not None and float(learned.grad.abs().min()) > 0
    codes = quantizer.embedding.weight
    assert (codes.grad is not None) == kind.startswith("gradient")
    quantizer.finish_training()
    assert set(quantizer.state_dict()) == {"embedding.weight"}


def test_every_registered_quantizer_is_checked() -> None:
    shipped = {entry.cls for entry in mk.QUANTIZERS if entry.cls.__module__.startswith("mage_kit.")}
    elsewhere = {mk.FSQ, mk.LFQ, mk.BSQ, mk.IBQ, mk.SimVQ}  # tests/quantizers/test_modern_codes.py
    assert shipped == {mk.EMACodebook, mk.GradientCodebook} | elsewhere, "a new one belongs in KINDS above"


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, losses and gradients of features taken three at a time are those of all at once."""
    results = []
    for chunk in (codebook.CHUNK, 3 * 32):
        monkeypatch.setattr(codebook, "CHUNK", chunk)
        quantizer, values = spread(KINDS[kind]()), features().requires_grad_()
        quantizer.start_training()
        made = quantizer(values, 0.0, torch.Generator().manual_seed(0))
        ((made.codes_BLW**2).mean() + made.loss).backward()
        weight = quantizer.embedding.weight
        results.append((made.ids_BL, made.loss.detach(), values.grad, weight.detach(), weight.grad))
    for whole, parts in zip(*results, strict=True):
        assert (whole is None) == (parts is None)
        if whole is not None and parts is not None:
            torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-7)


def test_a_compiled_tokenizer_takes_chunks_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch; only what is exported compares everything at once."""
    monkeypatch.setattr(codebook, "CHUNK", 64 * 32)
    quantizer = spread(mk.EMACodebook(codes=32, width=6))
    sizes: list[list[int]] = []

    def watch(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        sizes.append([int(node.meta["example_value"].shape[0]) for node in graph.graph.nodes if "argmin" in node.name])
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(quantizer.nearest, backend=watch)
    for count in (20, 7, 33):
        assert torch.equal(compiled(features(count)), quantizer.nearest(features(count)))
    assert len(sizes) >= 1 and sizes[0] == [64] * 5
    assert all(max(size) <= 64 for size in sizes), "rows of distances in each graph"


@pytest.mark.parametrize(("state", "chunks"), [("is_compiling", 5), ("is_exporting", 1)])
def test_one_chunk_is_for_exported_graphs_alone(state: str, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "CHUNK", 64 * 32)
    monkeypatch.setattr(torch.compiler, state, lambda: True)
    quantizer = spread(mk.EMACodebook(codes=32, width=6))
    rows: list[int] = []
    plain = mk.EMACodebook._ids

    def count(self: mk.EMACodebook, features_FW: Tensor, *rest: Tensor) -> Tensor:
        rows.append(len(features_FW))
        return plain(self, features_FW, *rest)

    monkeypatch.setattr(mk.EMACodebook, "_ids", count)
    quantizer.nearest(features(20))
    assert rows == [20 * 16 // chunks] * chunks


def test_a_traced_graph_serves_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "CHUNK", 64 * 32)
    quantizer = spread(mk.EMACodebook(codes=32, width=6))
    with pytest.warns(DeprecationWarning, match="jit.trace"):
        traced = torch.jit.trace(lambda values: quantizer.nearest(values), features(20))
    assert torch.equal(traced(features(33)), quantizer.nearest(features(33)))


def test_running_means_are_those_of_the_features() -> None:
    """After the first update from a place on the features: counts and sums as taken by hand."""
    quantizer = mk.EMACodebook(codes=8, width=6, restart=0.0)
    quantizer.start_training()
    quantizer.updates += 1  # nothing is placed anew
    spread(quantizer)
    quantizer.sums_VW.copy_(quantizer.embedding.weight)
    values = features(4)
    ids_F = quantizer.nearest(values).flatten()
    one_hot_FV = F.one_hot(ids_F, 8).float()
    keep = 2 / 11
    counts = torch.ones(8) * keep + one_hot_FV.sum(dim=0) * (1 - keep)
    sums = quantizer.sums_VW * keep + one_hot_FV.T @ values.flatten(0, 1) * (1 - keep)
    quantizer(values, 0.0, torch.Generator())
    torch.testing.assert_close(quantizer.counts_V, counts)
    torch.testing.assert_close(quantizer.sums_VW, sums)
    torch.testing.assert_close(quantizer.embedding.weight, sums / counts.clamp_min(1e-3)[:, None])


def test_a_seed_gives_the_same_halves_whatever_the_quantizer() -> None:
    made = []
    for quantizer in (mk.EMACodebook(codes=8, width=4), mk.GradientCodebook(codes=64, width=4)):
        torch.manual_seed(3)
        made.append(build.vqgan(quantizer=mk.QUANTIZERS.parse(mk.QUANTIZERS.describe(quantizer))).encoder.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


MEMORY = """
import resource, sys, torch
import mage_kit as mk
torch.manual_seed(0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
make = lambda large: eval(sys.argv[2] if large else sys.argv[1])
def learn(quantizer):
    features = torch.randn(int(sys.argv[3]), 1024, quantizer.width, requires_grad=True)
    quantizer.start_training()
    made = quantizer(features, 0.0, torch.Generator())
    (made.codes_BLW.mean() + made.loss).backward()
    assert quantizer.codes in (16, 2**18) and torch.isfinite(features.grad).all()
learn(make(False))
before = peak()
learn(make(True))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("few", "many", "images"),
    [
        ("mk.EMACodebook(codes=16, width=8)", "mk.EMACodebook(codes=2**18, width=8)", 4),
        ("mk.EMACodebook(codes=16, width=8, entropy=0.1)", "mk.EMACodebook(codes=2**18, width=8, entropy=0.1)", 2),
        ("mk.IBQ(codes=16, width=8)", "mk.IBQ(codes=2**18, width=8)", 2),
        ("mk.SimVQ(codes=16, width=8)", "mk.SimVQ(codes=2**18, width=8)", 2),
        ("mk.LFQ(bits=4)", "mk.LFQ(bits=18)", 32),
        ("mk.BSQ(bits=4)", "mk.BSQ(bits=18)", 32),
        ("mk.FSQ(levels=(4, 4))", "mk.FSQ(levels=(8, 8, 8, 8, 8, 8))", 32),
    ],
    ids=["ema", "ema-entropy", "ibq", "simvq", "lfq", "bsq", "fsq"],
)
def test_many_codes_need_little_memory(few: str, many: str, images: int) -> None:
    """2^18 codes; a table of all shares would be 34 GB of 32 images of 1,024 tokens, 4 GB of four."""
    words = [sys.executable, "-c", MEMORY, few, many, str(images)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1024, f"{done.stdout} MiB"
