"""Compiled blocks: measured where they pay, two graphs for a model, and the same numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import mage_kit as mk
from mage_kit.layers.blocks import Block
from mage_kit.training.compilation import compile_decision, measure_block
from tests import build
from tests.loops import loop_of
from tests.training.test_training import small

CPU = torch.device("cpu")


def one_pass(model: mk.Mage, images: int = 3) -> Tensor:
    torch.manual_seed(0)
    output, _, _ = build.masked_pass(model, build.tokens(model, images), torch.full((images,), 0.75).double())
    output.terms[0].total.backward()
    return output.terms[0].total.detach()


@pytest.mark.parametrize("recompute", [False, True])
def test_encoder_and_decoder_take_a_graph_each(recompute: bool) -> None:
    """Though they differ in shape, no size varies; what runs without gradients is not compiled at all."""
    plain, compiled = build.mage(dropout=0.0).train(), build.mage(dropout=0.0).train()
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    for model in (plain, compiled):
        model.set_recomputation(recompute)
    assert compiled.compile_training(backend=counter, fullgraph=True) == 3
    for _ in range(2):
        plain.zero_grad()
        compiled.zero_grad()
        torch.testing.assert_close(one_pass(plain), one_pass(compiled))
    for (name, one), (_, other) in zip(plain.trainable(), compiled.trainable(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    assert counter.frame_count == 2
    mk.generate(compiled.eval(), 2, steps=2)
    with torch.no_grad():
        compiled.token_features(build.tokens(compiled, 5))
    assert counter.frame_count == 2


def test_a_copy_of_a_compiled_model_has_its_own_weights() -> None:
    import copy

    model = build.mage(dropout=0.0).train()
    torch.compiler.reset()
    model.compile_training(backend="eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for _, value in other.trainable():
            value.zero_()
    assert float(one_pass(model)) != float(one_pass(other))


def test_auto_measures_on_a_gpu_alone() -> None:
    model, job = build.mage(), loop_of(small()).job
    assert job.compile == "auto" and compile_decision(job, model, CPU, "float32").value == "off"
    for asked, value in ((True, "on"), (False, "off")):
        assert compile_decision(replace(job, compile=asked), model, CPU, "float32").value == value
    nothing = compile_decision(job, nn.Linear(2, 2), torch.device("cuda"), "float32")
    assert nothing.value == "off" and nothing.reason == "there is no encoder with blocks of ours"


def test_a_block_is_measured_as_it_is_written_and_compiled() -> None:
    block, inputs = build.mage().encoder.blocks[0], torch.randn(2, 9, 32, requires_grad=True)
    for low in (False, True):
        decision = measure_block(block, inputs, low, backend="aot_eager")
        assert decision.value in ("on", "off") and "ms compiled" in decision.reason

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler in this house\nand more lines")

    decision = measure_block(block, inputs, False, backend=broken)
    assert decision.value == "off" and "no compiler in this house" in decision.reason


def test_blocks_that_are_passed_by_at_different_rates_share_a_graph() -> None:
    """As those of a fine-tuned ViT: numbers would be constants, and a block a graph."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(Block.run, backend=counter, fullgraph=True, dynamic=False)
    blocks = [Block(16, 2, 2.0, 0.0).train() for _ in range(12)]
    for number, block in enumerate(blocks):
        block.drop_path = number / 20
        block.compiled = run
        assert block(torch.randn(3, 5, 16, requires_grad=True)).shape == (3, 5, 16)
    assert counter.frame_count == 2, "one that passes none by, one for all others"


@pytest.mark.parametrize("low", [False, True])
def test_a_tokenizer_compiles_as_one_graph(low: bool) -> None:
    tokenizer = build.vqgan(grid=(4, 4))
    images = torch.rand(2, tokenizer.channels, *tokenizer.image_size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        plain = tokenizer.encode(images)
        torch.compiler.reset()
        assert tokenizer.compile_encoder(backend="aot_eager", fullgraph=True, dynamic=False)
        assert torch.equal(tokenizer.encode(images), plain)
