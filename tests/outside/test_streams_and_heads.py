"""A loss on a second stream, an input that is not quantised, a head: on digits, with trained tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.metrics import read_metrics
from tests.outside.sections import CARRIED, TOKENIZER, masked, recipe, training
from tests.recipes.test_recipe import RECIPES


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trained tokenizers of the same form and other seeds, each by a recipe of its own."""
    folder = tmp_path_factory.mktemp("tokenizers")
    task = {"kind": "reconstruct", "steps": 150, "batch": 64, "lr": 2e-3, **CARRIED, "checkpoint_every": 1000}
    return [mk.train(recipe("second_stream", training=task, seed=seed), folder / f"{seed}") for seed in (1, 2)]


def two_streams(others: list[Path], **changes: Any) -> mk.Recipe:
    """The first tokenizer's codes go in, the second one's are predicted."""
    first, second = others
    losses = [{"kind": "named_codes", "weight": 1.0, "stream": "codes"}]
    model = masked(losses, targets={"codes": {**TOKENIZER, "weights": str(second)}})
    tokenizer = {**TOKENIZER, "weights": str(first)}
    return recipe("second_stream", tokenizer=tokenizer, model=model, training=training(24, **changes))


@torch.no_grad()
def predicts_the_second(folder: Path, images: torch.Tensor) -> None:
    """Masked codes of the second tokenizer are predicted far better than by chance; its codes are not the first's."""
    model = mk.load(folder)
    first, second = (model.tokenizer.encode(images), model.targets["codes"].encode(images))
    assert float((first == second).double().mean()) < 0.2
    ratio = torch.full((len(images),), 0.6, dtype=torch.float64)
    noise = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(0))
    plan = model.plan(ratio, noise)
    masks = mk.BatchMasks(ratio, int(model.n_masked(ratio).sum()), 1)
    (term,) = model({"tokens": first, "codes": second}, plan, masks).terms
    found = float((term.hits_M * plan.weight_M).sum() / plan.weight_M.sum())
    share = float(torch.bincount(second.flatten()).max() / second.numel())
    assert found > share + 0.08, f"{found:.3f} of the second tokenizer's codes, the commonest is {share:.3f} of all"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    dataset = mk.Recipe.load(RECIPES / "digits_demo.json").build_dataset()
    return torch.stack([torch.from_numpy(dataset.still(index).views[0]) for index in range(0, 1600, 8)]).float() / 255


@pytest.mark.slow
def test_a_loss_on_a_second_stream_from_images_and_from_a_cache(
    others: list[Path], images: torch.Tensor, tmp_path: Path
) -> None:
    live = two_streams(others)
    mk.train(live, tmp_path / "live")
    cache = tokenize(live, tmp_path / "cache", crops=4)
    held = load_file(cache / "tokens-00000.safetensors")
    assert held["tokens"].shape == held["codes"].shape and not torch.equal(held["tokens"], held["codes"])
    mk.train(on_tokens(live, cache), tmp_path / "cached")
    for name in ("live", "cached"):
        records = read_metrics(tmp_path / name, "model")
        assert records[-1]["named_codes"] < 0.85 * records[0]["named_codes"]
        predicts_the_second(tmp_path / name, images)
    alone = live.extended(model=masked([{"kind": "masked_cross_entropy", "weight": 1.0}]))
    bare = tokenize(alone, tmp_path / "bare", crops=1)
    with pytest.raises(mk.RecipeError, match=r"no stream 'codes', which the model reads; the cache holds tokens"):
        mk.train(on_tokens(live, bare), tmp_path / "lacking")
    exchanged = live.changed("model", targets={"codes": {**TOKENIZER, "weights": str(others[0])}})
    with pytest.raises(mk.RecipeError, match=r"targets.codes: weights_sha256 is"):
        mk.train(on_tokens(exchanged, cache), tmp_path / "exchanged")


@pytest.mark.slow
def test_a_mutant_that_reads_the_wrong_stream_fails(
    others: list[Path], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = mk.Mage._inputs

    def wrong(self: mk.Mage, loss: Any, streams: Any, *rest: Any) -> Any:
        return inputs(self, loss, {**streams, "codes": streams["tokens"]}, *rest)

    with monkeypatch.context() as mutant:
        mutant.setattr(mk.Mage, "_inputs", wrong)
        mk.train(two_streams(others), tmp_path / "run")
    with pytest.raises(AssertionError, match="of the second tokenizer's codes"):
        predicts_the_second(tmp_path / "run", images)


@pytest.mark.slow
def test_an_input_that_is_not_quantised(others: list[Path], tmp_path: Path) -> None:
    """Paper, supplement, Table 6: the encoder sees features, codes are predicted; such a model cannot generate."""
    losses = [{"kind": "masked_cross_entropy", "weight": 1.0}]
    tokenizer = {**TOKENIZER, "weights": str(others[0])}
    mine = recipe("second_stream", tokenizer=tokenizer, model=masked(losses, input="features"), training=training(24))
    mk.train(mine, tmp_path / "run")
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    model = mk.load(tmp_path / "run")
    assert (
        model.spec.width == 8 and not model.spec.discrete and model.features(torch.rand(2, 1, 32, 32)).shape == (2, 64)
    )
    with pytest.raises(mk.PartsError, match="generation"):
        mk.generate(model, 1)


@pytest.mark.slow
def test_a_head_of_its_own_trains_and_generates(others: list[Path], tmp_path: Path) -> None:
    losses = [{"kind": "masked_prediction", "weight": 1.0}]
    tokenizer = {**TOKENIZER, "weights": str(others[0])}
    model = masked(losses, heads={"tokens": {"kind": "bits", "hidden": 64}})
    mine = recipe("bit_head", tokenizer=tokenizer, model=model, training=training(24, samples_every=24.0))
    out = mk.train(mine, tmp_path / "run")
    records = read_metrics(out, "model")
    assert records[0]["masked_prediction"] < 1.1 * records[0]["chance"] and "accuracy" in records[0]
    assert records[-1]["masked_prediction"] < 0.975 * records[0]["chance"], "bits of a code share little"
    assert (out / "samples").is_dir()
    trained = mk.load(out)
    made, other = (mk.generate(trained, 200, seed=seed) for seed in (0, 1))
    assert int(made.ids_BL.min()) >= 0 and int(made.ids_BL.max()) < 32 and not torch.equal(made.ids_BL, other.ids_BL)
    assert torch.equal(made.ids_BL, mk.generate(trained, 200, seed=0, batch=7).ids_BL), "image i follows (seed, i)"
    real = _real_codes(trained)
    untrained = mk.generate(mk.build(mine, trained.tokenizer).model, 200)
    gaps = [float((_bits(each) - _bits(real)).abs().mean()) for each in (made.ids_BL, untrained.ids_BL)]
    assert gaps[0] < 0.6 * gaps[1], f"means of bits by place: {gaps[0]:.3f} from the digits', untrained {gaps[1]:.3f}"
    with pytest.raises(mk.RecipeError, match="needs logits over codes, BitHead gives none; use masked_prediction"):
        mk.check(mine.changed("model", losses=[{"kind": "masked_cross_entropy", "weight": 1.0}]))


def _real_codes(model: mk.Mage) -> torch.Tensor:
    dataset = mk.Recipe.load(RECIPES / "digits_demo.json").build_dataset()
    views = [torch.from_numpy(dataset.still(index).views[0]) for index in range(0, 1797, 6)]
    return model.tokenizer.encode(torch.stack(views).float() / 255)


def _bits(ids_BL: torch.Tensor) -> torch.Tensor:
    """Mean of each bit at each place: what a head of independent bits can learn of digits' codes."""
    return torch.stack([((ids_BL >> bit) & 1).double().mean(dim=0) for bit in range(5)])
