"""Weights of one image size serve another: tokenizers as they are, learned positions resized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.grid import TokenGrid
from mage_kit.cli import app
from mage_kit.layers.embedding import resize_positions
from mage_kit.legacy import Options, import_checkpoint
from mage_kit.store.convert import convert
from mage_kit.training.resolve import resolve
from mage_kit.training.train import train
from tests import build
from tests.legacy.files import MINI
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small

QUICK = ("training.epochs=6", "training.precision=float32", "kernels.attention=matmul")


def by_hand(positions_ND: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """Keys' cubic convolution (a = -0.5) with the kernel widened where the grid shrinks, one axis after the other."""

    def weights(before: int, after: int) -> np.ndarray:
        scale = before / after
        wide = max(1.0, scale)
        places = np.abs(((np.arange(after)[:, None] + 0.5) * scale - (np.arange(before)[None] + 0.5)) / wide)
        near = 1.5 * places**3 - 2.5 * places**2 + 1
        far = -0.5 * places**3 + 2.5 * places**2 - 4 * places + 2
        table = np.where(places < 1, near, np.where(places < 2, far, 0.0))
        return table / table.sum(axis=1, keepdims=True)

    plane = positions_ND[1:].double().numpy().reshape(old.height, old.width, -1)
    rows = np.einsum("ah,hwd->awd", weights(old.height, new.height), plane)
    both = np.einsum("bw,awd->abd", weights(old.width, new.width), rows)
    return torch.cat([positions_ND[:1].double(), torch.from_numpy(both.reshape(new.size, -1))])


@pytest.mark.parametrize(
    ("old", "new"), [((16, 16), (32, 32)), ((8, 8), (12, 12)), ((6, 4), (3, 9)), ((24, 24), (16, 16))]
)
def test_positions_are_resized_as_by_hand(old: tuple[int, int], new: tuple[int, int]) -> None:
    before, after = TokenGrid(*old), TokenGrid(*new)
    positions_ND = torch.randn(1 + before.size, 16, generator=torch.Generator().manual_seed(0))
    resized_ND = resize_positions(positions_ND, before, after)
    torch.testing.assert_close(resized_ND.double(), by_hand(positions_ND, before, after), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(*QUICK), tmp_path_factory.mktemp("sizes") / "run")


def test_a_model_of_32_pixels_generates_and_edits_at_48(run: Path, tmp_path: Path) -> None:
    small_model, model = mk.load(run), mk.load(run, image_size=(48, 48))
    assert model.tokenizer.image_size == (48, 48) and model.spec.grid == mk.TokenGrid(6, 6)
    state, before = model.state_dict(), small_model.state_dict()
    for name in ("embedding.positions_ND", "decoder.positions_NE"):
        wanted = by_hand(before[name], small_model.spec.grid, model.spec.grid)
        torch.testing.assert_close(state[name].double(), wanted, atol=1e-5, rtol=1e-5)
    rest = [name for name in before if "positions_N" not in name]
    assert all(torch.equal(state[name], before[name]) for name in rest)
    assert mk.generate(model, 2).images_BCHW.shape == (2, 1, 48, 48)
    assert torch.equal(
        mk.load(run, image_size=(32, 32)).state_dict()["decoder.positions_NE"], before["decoder.positions_NE"]
    )
    call = CliRunner().invoke
    done = call(app, ["generate", str(run), "-n", "2", "--image-size", "48", "--steps", "3"])
    assert done.exit_code == 0, done.exception
    assert "positions of 4x4 tokens resized to 6x6 (bicubic)" in " ".join(done.output.split())
    (sheet,) = run.glob("generated-seed0-n2-48.png")
    assert json.loads(sheet.with_suffix(".json").read_text())["image_size"] == [48, 48]
    picture = mk.Digits(image_size=(96, 96), channels=1).image(0)
    picture.save(tmp_path / "digit.png")
    command = ["edit", "reconstruct", str(run), str(tmp_path / "digit.png"), "-o", str(tmp_path / "out")]
    done = call(app, [*command, "--image-size", "48x40", "--steps", "3"])
    assert done.exit_code == 0 and "resized to 6x5" in " ".join(done.output.split()), done.exception
    refused = call(app, ["generate", str(run), "-n", "2", "--image-size", "50"])
    assert "50x50, must be multiples of 8" in str(refused.exception)


def test_a_tokenizer_and_an_encoder_start_a_model_of_another_size(run: Path, tmp_path: Path) -> None:
    """The tokenizer's codes are its own; the encoder's positions are resized, and training says so in one line."""
    changes = ("tokenizer.image_size=[48, 48]", f'tokenizer.weights="{run}"', f'pretrained.weights="{run}"')
    larger = small(*QUICK, 'pretrained={"weights": "", "freeze": false}', *changes)
    resolved = resolve(larger, torch.device("cpu"))
    assert "pretrained encoder: positions of 4x4 tokens resized to 6x6 (bicubic)" in resolved.remarks
    assert resolved.remarks[0].endswith("from the seed begin decoder (17 tensors), heads (5 tensors)")
    before, model = mk.load(run), resolved.model
    assert isinstance(model, mk.Mage)
    images_BCHW = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        ids_BL = mk.load_tokenizer(run, image_size=(48, 48)).encode(images_BCHW)
        assert torch.equal(model.tokenizer.encode(images_BCHW), ids_BL)
    wanted = by_hand(before.embedding.positions_ND.detach(), before.spec.grid, model.spec.grid)
    torch.testing.assert_close(model.embedding.positions_ND.detach().double(), wanted, atol=1e-5, rtol=1e-5)
    out = train(larger.changed("training", epochs=0.2), tmp_path / "larger")
    assert mk.load(out).spec.grid == mk.TokenGrid(6, 6)
    alone = small(*QUICK, *changes[:2])
    assert resolve(alone, torch.device("cpu")).remarks == (
        "tokenizer_training: its steps are left out, since a trained tokenizer is named",
    )


def test_a_classifier_at_another_size(run: Path) -> None:
    changes = [f"pretrained.weights={run}", "tokenizer.image_size=[40, 48]"]
    recipe = mk.Recipe.load(RECIPES / "finetune_digits.json", [*changes, *_form(run)])
    resolved = resolve(recipe, torch.device("cpu"))
    assert "pretrained encoder: positions of 4x4 tokens resized to 5x6 (bicubic)" in resolved.remarks


def _form(run: Path) -> list[str]:
    stored = json.loads((run / "recipe.json").read_text())
    encoder = json.dumps({**stored["model"]["encoder"], "dropout": 0.0})
    tokenizer = json.dumps({**stored["tokenizer"], "weights": None, "image_size": [40, 48]})
    return [f"tokenizer={tokenizer}", f"model.encoder={encoder}"]


def test_models_composed_in_python_change_size_too() -> None:
    model = build.mage(build.vqgan(3, (4, 4)))
    larger = mk.at_size(model, (48, 16))
    assert larger.spec.grid == mk.TokenGrid(12, 4) and larger.training == model.training
    assert mk.at_size(model, tuple(model.tokenizer.image_size)) is model
    smaller = mk.at_size(larger, (16, 16))
    assert smaller.spec.grid == model.spec.grid
    fixed = build.mage(build.vqgan(3, (4, 4)), embedding=mk.EmbeddingConfig(positions="sine_cosine"))
    assert mk.at_size(fixed, (32, 32)).embedding.positions_ND.shape[0] == 65


def test_the_512_pixel_recipe_starts_from_the_256_pixel_model() -> None:
    small_, large = (mk.Recipe.load(RECIPES / f"{name}.json") for name in ("mage_vitb", "mage_vitb_512"))
    parts = mk.check(large)
    assert parts.model is not None and parts.model.spec.grid == mk.TokenGrid(32, 32)
    assert large.pretrained is not None and not large.pretrained.freeze
    assert large.model.encoder == small_.model.encoder  # type: ignore[union-attr]  # both are masked models
    same = {**large.tokenizer.model_dump(), "image_size": (256, 256)}
    assert same == small_.tokenizer.model_dump()


@pytest.mark.parametrize("size", [(512, 512), (128, 256)])
def test_published_weights_of_256_pixels_serve_another_size(size: tuple[int, int], tmp_path: Path) -> None:
    """A file of the published layout: 16 x 16 positions of encoder and decoder, resized; the rest as it is."""
    own = import_checkpoint(MINI, options=Options(None, 4, 4)).part
    imported = import_checkpoint(MINI, options=Options(size, 4, 4))
    assert isinstance(own, mk.Mage) and isinstance(imported.part, mk.Mage)
    before, state = own.state_dict(), imported.part.state_dict()
    grid = mk.TokenGrid(size[0] // 16, size[1] // 16)
    assert imported.part.spec.grid == grid and own.spec.grid == mk.TokenGrid(16, 16)
    for name, tensor in before.items():
        wanted = by_hand(tensor, own.spec.grid, grid) if "positions_N" in name else tensor.double()
        torch.testing.assert_close(state[name].double(), wanted, atol=1e-5, rtol=1e-5)
    words = f"positions of 16x16 tokens resized to {grid.height}x{grid.width} (bicubic)"
    assert imported.origin.card["image_size_from"] == f"the option; {words}"
    folder = convert(MINI, tmp_path / "model", image_size=size, encoder_heads=4, decoder_heads=4).folder
    assert mk.load(folder).spec.grid == grid


@pytest.mark.parametrize("size", [48, (48,), (48, 0), "48"])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(mk.MageKitError, match=r"image_size: .*, must be a pair"):
        mk.at_size(build.mage(), size)  # type: ignore[arg-type]  # what is refused
