"""What is asked of the kernels by name or argument: it runs, or is refused in one line, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mage_kernels import make_plan, pad_tokens, remask, sample_tokens
from mage_kernels.attention import Implementation, attention
from mage_kernels.attention_choice import generation_form
from mage_kernels.survey import survey

import mage_kit as mk
from mage_kit.recipes.sections import AttentionForm
from mage_kit.training.train import train
from tests import build
from tests.benchmarks.test_benchmarks import ROOT
from tests.training.test_training import small

CPU = torch.device("cpu")
needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device that runs them")


@needs_cpu
@pytest.mark.parametrize("form", ["xformers", "sdpa_cudnn", "sdpa_efficient", "sdpa_flash"])
def test_a_form_that_cannot_train_here_is_refused_before_the_first_stage(form: str, tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError, match=rf"\$\.kernels\.attention: {form}, cannot train here: ") as caught:
        train(small(f"kernels.attention={form}"), tmp_path / "run")
    assert len(caught.value.problems) == 1 and not (tmp_path / "run").exists()


@needs_cpu
def test_a_backend_that_cannot_run_here_is_refused_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(mk.RecipeError, match=r"\$\.kernels\.backend: 'triton', cannot run \w+ on cpu"):
        train(small("kernels.backend=triton"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_generation_uses_the_form_that_the_recipe_names(tmp_path: Path) -> None:
    """A folder whose recipe names a form generates by it, or says why not; composed models write theirs."""
    model = build.mage()
    model.ask_attention("reference")
    folder = mk.save(model, tmp_path / "model")
    assert json.loads((folder / "recipe.json").read_text())["kernels"]["attention"] == "reference"
    loaded = mk.load(folder)
    assert loaded.attention == "reference" and loaded.encoder.blocks[0].attn.inference == "reference"
    if not torch.cuda.is_available():
        loaded.ask_attention("xformers")
        with pytest.raises(ValueError, match=r"attention: 'xformers', cannot run \(1, 4, 17, 8\) float32"):
            mk.generate(loaded, 2)


def test_one_wrong_form_is_one_problem() -> None:
    with pytest.raises(mk.RecipeError) as caught:
        small("kernels.attention=3")
    (problem,) = caught.value.problems
    assert problem.startswith("$.kernels.attention: 3")
    assert set(AttentionForm.__args__) == {"auto", *Implementation.__args__}


def test_blocks_are_compiled_and_computed_again(tmp_path: Path) -> None:
    """Both together: what a compiled block computes again is what it computed."""
    plain, both = build.mage(dropout=0.0), build.mage(dropout=0.0)
    assert both.set_recomputation(True) == 3 and both.compile_blocks(backend="aot_eager") == 3
    ratio = torch.tensor([0.6, 0.9], dtype=torch.float64)
    for model in (plain, both):
        model.train()
        model.set_attention("matmul")
        output, _, _ = build.masked_pass(model, build.tokens(model, 2), ratio)
        output.terms[0].total.backward()
    for (name, first), (_, second) in zip(plain.trainable(), both.trainable(), strict=True):
        assert first.grad is not None and second.grad is not None
        torch.testing.assert_close(first.grad, second.grad, msg=name)


def test_doctor_says_of_generation_what_generation_does() -> None:
    rows = {row.operation: row for row in survey(CPU)}
    for kind in (torch.float32, torch.bfloat16):
        row = rows[f"attention, generation in {str(kind)[6:]}"]
        assert row.implementation == generation_form(CPU, kind).implementation and row.reason.startswith("by rule")


NOISE, COUNT = torch.rand(2, 8), torch.tensor([4, 5])
Q = torch.rand(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: attention(Q, Q, Q, dropout=1.5, implementation="matmul"), "dropout: 1.5"),
        (lambda: attention(Q, Q, Q, dropout=-0.5, implementation="matmul"), "dropout: -0.5"),
        (lambda: attention(Q.long(), Q.long(), Q.long(), implementation="matmul"), "must be floating"),
        (lambda: attention(Q, Q, Q, implementation=["sdpa"]), "must be one of sdpa"),  # type: ignore[arg-type]
        (lambda: make_plan(NOISE, COUNT, -1), "n_dropped: -1"),
        (lambda: make_plan(NOISE, COUNT, 0, rows_step=0), "rows_step: 0"),
        (lambda: make_plan(NOISE[:0], COUNT[:0], 0), "0 counts for 0 images"),
        (lambda: make_plan(NOISE, COUNT[:1], 0), "1 counts for 2 images"),
        (lambda: pad_tokens(torch.rand(1, 3, 4), torch.zeros(2, 5).long(), torch.rand(5, 4)), "slot: 2 rows for 1"),
        (lambda: sample_tokens(torch.rand(2, 3, 5), torch.rand(2, 1)), r"uniform: \(2, 1\)"),
        (lambda: sample_tokens(torch.rand(1, 2, 5), torch.tensor([[0.5, 1.0]])), r"outside \(0, 1\)"),
        (lambda: sample_tokens(torch.rand(1, 2, 5), torch.tensor([[0.5, torch.nan]])), r"outside \(0, 1\)"),
        (lambda: sample_tokens(Q[0], NOISE[:, :3], backend=["torch"]), "backend: "),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_arguments_that_break_their_rule_are_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_remasking_more_or_less_than_there_is(backend: Any) -> None:
    masked = torch.tensor([[True, True, False, True]] * 2)
    found = remask(torch.rand(2, 4), masked, torch.tensor([-1, 9]), backend=backend)
    assert not found[0].any() and torch.equal(found[1], masked[1])


@pytest.mark.parametrize(("words", "rule"), [
    (["--benchmark", "tests/house/test_layers.py"], "--benchmark times benchmarks/ alone"),
    (["benchmarks/test_bench_kernels.py"], "benchmarks/ needs --benchmark"),
])  # fmt: skip
def test_tests_and_benchmarks_named_by_file_stay_apart(words: list[str], rule: str) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and rule in done.stderr
