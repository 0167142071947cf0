"""A model of continuous tokens generates and edits, by a head of its own: nothing in generation asks for codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
from tests.outside.sections import masked, recipe, training

PATCHES = {"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}


def gaussian(epochs: float = 8.0) -> mk.Recipe:
    model = masked([{"kind": "masked_prediction", "weight": 1.0}], heads={"tokens": {"kind": "gaussian"}})
    return recipe("gaussian_head", tokenizer=PATCHES, model=model, training=training(epochs, samples_every=epochs))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.train(gaussian(), tmp_path_factory.mktemp("values") / "run")


def test_it_learns_and_generates(run: Path) -> None:
    records = read_metrics(run, "model")
    assert records[-1]["masked_prediction"] < records[0]["masked_prediction"] - 20, "nats a token of 64 values"
    assert "chance" not in records[0] and (run / "samples").is_dir()
    model = mk.load(run)
    made = mk.generate(model, 48, seed=0)
    assert made.ids_BL.shape == (48, 16, 64) and made.ids_BL.dtype == torch.float32
    again = mk.generate(model, 48, seed=0, batch=7)
    torch.testing.assert_close(made.ids_BL, again.ids_BL, rtol=0, atol=1e-5)
    cold = mk.generate(model, 48, seed=0, token_temperature=0.0).images_BCHW
    real = _digits(48)
    untrained = mk.generate(mk.build(gaussian(), model.tokenizer).model, 48, token_temperature=0.0).images_BCHW
    gaps = [float((images.mean(dim=0) - real.mean(dim=0)).abs().mean()) for images in (cold, untrained)]
    assert gaps[0] < 0.5 * gaps[1], f"mean picture: {gaps[0]:.3f} from the digits', untrained {gaps[1]:.3f}"


def test_it_edits_and_keeps_what_is_known(run: Path) -> None:
    model, image = mk.load(run), _digits(1)[0]
    hole = np.zeros((32, 32), dtype=np.bool_)
    hole[:, 16:] = True
    made = mk.inpaint(model, (image[0] * 255).round().to(torch.uint8).numpy(), hole, n=2, dilate=0, feather=0)
    assert made.ids_NL.shape == (2, 16, 64)
    known = model.tokenizer.encode((image * 255).round()[None] / 255)
    kept = ~made.masked_NL
    assert int(kept.sum()) == 16 and torch.equal(made.ids_NL[kept], known.expand(2, -1, -1)[kept])
    assert not torch.equal(made.ids_NL[0], made.ids_NL[1])


def test_what_the_head_cannot_do_is_refused(run: Path) -> None:
    model = mk.load(run)
    for option in ({"top_k": 3}, {"top_p": 0.5}):
        with pytest.raises(ValueError, match=r"top_[kp]: .*, GaussianHead gives no logits to cut off"):
            mk.generate(model, 1, **option)  # type: ignore[arg-type]
    generation = {**gaussian().model.generation.model_dump(mode="json"), "top_k": 3}
    cut = gaussian().changed("model", generation=generation)
    with pytest.raises(mk.RecipeError, match=r"generation\.top_k and \$\.model: top_k: 3, GaussianHead gives no"):
        mk.check(cut)
    mk.generate(model, 1, top_p=1.0)  # which cuts nothing off
    for selection in (mk.Margin(), mk.Entropy()):
        with pytest.raises(ValueError, match="reads predictions, GaussianHead gives none"):
            mk.generate(model, 1, selection=selection)
    loss = [{"kind": "masked_mse", "weight": 1.0}]
    with pytest.raises(mk.RecipeError, match="MaskedMSE needs values, GaussianHead gives none; use masked_prediction"):
        mk.check(gaussian().changed("model", losses=loss))
    with pytest.raises(ValueError, match=r"must be torch\.float32"):
        mk.decode_tokens(model, torch.zeros(1, 16, 64, dtype=torch.int64), torch.ones(1, 16, dtype=torch.bool))
    assert not model.generation_obstacle


def _digits(count: int) -> torch.Tensor:
    dataset = gaussian().build_dataset()
    step = len(dataset) // count
    return torch.stack([torch.from_numpy(dataset.still(step * i).views[0]) for i in range(count)]).float() / 255
