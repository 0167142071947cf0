"""Recipes: every problem at once with its path, every shipped one holds, Python and JSON give the same models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.base.manifest import list_files
from mage_kit.recipes.overrides import apply_override
from mage_kit.recipes.recipe import json_schema
from tests import build

RECIPES = Path(__file__).parent.parent.parent / "recipes"
SHIPPED = sorted(path for path in RECIPES.glob("*.json") if "model" in json.loads(path.read_text()))


def digits() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RECIPES / "digits.json").read_text())
    return data


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_check_and_build(path: Path) -> None:
    recipe = mk.Recipe.load(path)
    assert recipe.name == path.stem
    parts = mk.check(recipe)
    model = parts.model or parts.tokenizer
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert json.loads(recipe.to_json()) == {k: v for k, v in json.loads(path.read_text()).items() if k != "$schema"}, (
        "a shipped recipe states every number"
    )


def test_the_papers_settings() -> None:
    base, large = (mk.check(mk.Recipe.load(RECIPES / f"mage_vit{size}.json")).model for size in "bl")
    assert base.spec.grid == mk.TokenGrid(16, 16) and base.spec.codes == 1024 and base.n_dropped == 128
    tokenizer = base.tokenizer
    counts = [
        sum(p.numel() for p in part.parameters()) for part in (tokenizer.encoder, tokenizer.decoder, tokenizer.quantize)
    ]
    assert [round(count / 1e6, 1) for count in counts] == [23.8, 30.5, 0.3]
    assert (large.encoder.dim, len(large.encoder.blocks), len(large.decoder.blocks)) == (1024, 24, 8)
    contrastive = mk.Recipe.load(RECIPES / "mage_c_vitl.json")
    model = mk.check(contrastive).model
    assert model.mask_ratio.high == 0.6 and model.loss_weights == [1.0, 0.1]
    assert model.losses[1].temperature == 0.2 and model.views == 2
    assert contrastive.training is not None and contrastive.training.batch == 2048


def test_the_schema_beside_the_recipes_is_fresh() -> None:
    stored = json.loads((RECIPES / "recipe.schema.json").read_text())
    assert stored == json_schema(), "run: mage-kit schema --out recipes/recipe.schema.json --overwrite"
    text = json.dumps(stored)
    assert '"minimum"' in text and '"default"' in text and "Symmetric" not in text


PLANTED: list[tuple[str, Any, str]] = [
    ("seed", "zero", '$.seed: "zero", must be a whole number'),
    ("tokenizer.image_size", [32], "$.tokenizer.image_size[1]: missing"),
    ("model.decoder.deph", 2, "$.model.decoder.deph: unknown, did you mean 'depth'?"),
    ("model.mask_ratio.kind", "truncated_norm", "did you mean 'truncated_normal'?"),
    ("model.drop", 1.5, "$.model.drop: 1.5, must lie in [0, 1] or be 'lowest'"),
    ("model.losses.0.label_smoothing", 1.0, "$.model.losses[0].label_smoothing: 1.0, must be below 1"),
    ("training.batch", 0, "$.training.batch: 0, must be at least 1"),
    ("trainig", {}, "$.trainig: unknown, did you mean 'training'?"),
]


def plant() -> dict[str, Any]:
    data = digits()
    for path, value, _ in PLANTED:
        apply_override(data, f"{path}={json.dumps(value)}")
    return data


def test_eight_mistakes_give_eight_lines() -> None:
    with pytest.raises(mk.RecipeError) as caught:
        mk.Recipe.parse(plant())
    assert len(caught.value.problems) == 8
    for _, _, line in PLANTED:
        assert sum(line in problem for problem in caught.value.problems) == 1, line
    assert all(problem.startswith("$.") for problem in caught.value.problems)


@pytest.mark.parametrize("place", ["heads", "targets"])
def test_unknown_keys_of_named_parts(place: str) -> None:
    """Parts by name, as those of a list, know their own keys."""
    data = digits()
    part = {"kind": "codes"} if place == "heads" else {**data["tokenizer"]}
    data["model"][place] = {"other": {**part, "tide": True}}
    with pytest.raises(mk.RecipeError) as caught:
        mk.Recipe.parse(data)
    assert [line.split(":")[0] for line in caught.value.problems] == [f"$.model.{place}.other.tide"]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ("model.losses.0.weight", ["$.model.losses[0].weight: missing"]),
        ("model.encoder.kind", ["$.model.encoder.kind: missing, one of: vit"]),
        ("model.losses", ["$.model.losses: missing"]),
    ],
)
def test_missing_values(change: str, lines: list[str]) -> None:
    data = digits()
    *way, last = change.split(".")
    place: Any = data
    for part in way:
        place = place[int(part)] if part.isdigit() else place[part]
    del place[last]
    with pytest.raises(mk.RecipeError) as caught:
        mk.Recipe.parse(data)
    assert list(caught.value.problems) == lines


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.mask_ratio=cosine", "$.model.mask_ratio and $.model.drop: ratios go down to 0"),
        (
            'model.losses=[{"kind": "masked_mse", "weight": 1.0}]',
            "$.model.losses[0] and $.tokenizer: MaskedMSE needs continuous",
        ),
        ("data.augment.views=1", "the loss needs 2 views, the data gives 1"),
        ("tokenizer.image_size=[32, 30]", "$.tokenizer.image_size: 32x30, must be multiples of 8"),
        ("model.encoder.heads=5", "$.model.encoder.dim: 128, must be a multiple of heads (5)"),
        ("model.mask_ratio.low=1.0", "$.model.mask_ratio.low: 1.0, must not exceed high (0.6)"),
        ("tokenizer_training=null", "$.tokenizer.weights and $.tokenizer_training: both null"),
        ("training.micro_batch=100", "$.training.micro_batch: 100, must divide $.training.batch (128)"),
        (
            "tokenizer_training.micro_batch=7",
            "$.tokenizer_training.micro_batch: 7, must divide $.tokenizer_training.batch (",
        ),
    ],
)
def test_parts_that_do_not_fit_name_their_paths(override: str, line: str) -> None:
    contrastive = ["model.mask_ratio.high=0.6", "data.augment.views=2"]
    info = {"kind": "info_nce", "weight": 0.1, "hidden": 32, "output": 16}
    contrastive.append(f"model.losses={json.dumps([digits()['model']['losses'][0], info])}")
    with pytest.raises(mk.RecipeError) as caught:
        mk.check(mk.Recipe.load(RECIPES / "digits.json", [*contrastive, override]))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


def test_overrides_replace_values_components_and_list_items() -> None:
    recipe = mk.Recipe.load(
        RECIPES / "digits.json",
        [
            "training.epochs=3",
            "model.padding=mask_token",
            'model.generation.selection={"kind": "halton"}',
            "model.losses[0].weight=2.0",
            "name=mine",
        ],
    )
    assert recipe.training is not None and recipe.training.epochs == 3 and recipe.name == "mine"
    assert recipe.model.padding.kind == "mask_token" and recipe.model.generation.selection.kind == "halton"
    assert recipe.model.losses[0].get("weight") == 2.0
    place: dict[str, Any] = {"model": {}}
    apply_override(place, "model.heads.other/features.kind=values")
    assert place == {"model": {"heads": {"other/features": {"kind": "values"}}}}
    for bad, message in (
        ("training.epochs", "path=value"),
        ("model.losses[7].weight=1", "no place '7'"),
        ("name.x=1", "no place 'x'"),
    ):
        with pytest.raises(mk.MageKitError, match=message):
            mk.Recipe.load(RECIPES / "digits.json", [bad])


@pytest.mark.parametrize("text", ["{", "[1, 2]", "", "\xff\xfe"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(mk.RecipeError):
        mk.Recipe.load(path)
    with pytest.raises(mk.RecipeError, match="no such file"):
        mk.Recipe.load(tmp_path / "none.json")
    with pytest.raises(mk.RecipeError, match="cannot be read"):
        mk.Recipe.load(tmp_path)


def test_recipes_of_a_classifier_and_of_a_tokenizer_build_the_same_again(tmp_path: Path) -> None:
    tokenizer = build.vqgan()
    classifier = mk.MageClassifier(
        tokenizer=tokenizer, encoder=mk.ViTEncoder(dim=32, depth=2, heads=2), classes=7, head="probe", drop_path=0.1
    )
    for part, name in ((classifier, "mine"), (tokenizer, "theirs")):
        recipe = mk.Recipe.of(part, name)
        assert mk.Recipe.parse(json.loads(recipe.to_json())).to_json() == recipe.to_json() and recipe.name == name
        again = mk.build(recipe)
        other = again.tokenizer if again.model is None else again.model
        assert type(other) is type(part) and mk.Recipe.of(other, name).to_json() == recipe.to_json()
        shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (part, other)]
        assert shapes[0] == shapes[1]
    assert mk.Recipe.of(tokenizer).model is None
    training = {"kind": "reconstruct", "steps": 2, "batch": 8}
    data = json.loads((RECIPES / "digits_demo.json").read_text())["data"]
    mk.check(mk.Recipe.of(tokenizer).extended(training=training, data={**data, "augment": {}}))


def test_a_model_composed_in_python_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    model = build.mage(
        mask_ratio=mk.UniformRatio(low=0.6),
        padding=mk.MaskTokenPadding(24),
        losses=[mk.Weighted(mk.MaskedCrossEntropy(label_smoothing=0.2), 0.5)],
        decoding=mk.Decoding(mk.PowerSchedule(exponent=3.0), mk.Halton(), 5),
    ).eval()
    mk.save(model, tmp_path / "mine")
    loaded = mk.load(tmp_path / "mine")
    assert mk.Recipe.of(loaded).to_json() == mk.Recipe.of(model).to_json()
    assert torch.equal(mk.generate(model, 3).images_BCHW, mk.generate(loaded, 3).images_BCHW)
    assert loaded.loss_weights == [0.5] and loaded.decoding.steps == 5
    with pytest.raises(mk.MageKitError, match="is not empty"):
        mk.save(model, tmp_path / "mine")
    mk.save(model, tmp_path / "mine", overwrite=True)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match=r"holds no recipe\.json"):
        mk.load(tmp_path)
    mk.save(build.mage(), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(mk.MageKitError, match="is not what was written"):
        mk.load(tmp_path / "m")
    list_files(weights)
    with pytest.raises(mk.MageKitError, match="cannot be read"):
        mk.load(tmp_path / "m")
    mk.save(build.mage(encoder=mk.ViTEncoder(dim=32, depth=3, heads=4)), tmp_path / "deep")
    weights.write_bytes((tmp_path / "deep" / "model.safetensors").read_bytes())
    with pytest.raises(mk.MageKitError, match="is not what was written"):
        mk.load(tmp_path / "m")
    list_files(weights)
    with pytest.raises(mk.MageKitError, match=r"unexpected: encoder\.blocks\.2"):
        mk.load(tmp_path / "m")


PLUGIN = '''
import torch
from mage_kit import MASK_RATIOS, Fraction, MaskRatio


@MASK_RATIOS.register("{kind}")
class Steps(MaskRatio):
    """Two ratios, half and half.

    Args:
        low: The smaller.
        high: The larger.
    """

    def __init__(self, *, low: Fraction = 0.5, high: Fraction = 1.0) -> None:
        self.low, self.high = low, high

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        heads = torch.randint(2, (count,), generator=generator)
        return torch.tensor([self.low, self.high], dtype=torch.float64)[heads]
'''


def test_a_plugin_beside_the_recipe_is_valid_as_soon_as_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "my_steps.py").write_text(PLUGIN.format(kind="steps_beside"))
    data = digits() | {"plugins": ["my_steps"]}
    data["model"]["mask_ratio"] = {"kind": "steps_beside", "low": 0.6}
    (tmp_path / "r.json").write_text(json.dumps(data))
    model = mk.check(mk.Recipe.load(tmp_path / "r.json")).model
    assert type(model.mask_ratio).__name__ == "Steps" and model.mask_ratio.low == 0.6
    assert mk.Recipe.of(build.mage(mask_ratio=type(model.mask_ratio)())).plugins == ("my_steps",)
    assert str(tmp_path) not in sys.path
    data["plugins"] = ["no_such_module", "my_steps"]
    with pytest.raises(mk.RecipeError, match=r"\$\.plugins\[0\]: 'no_such_module' cannot be imported"):
        mk.Recipe.parse(data)


def test_an_installed_package_brings_its_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_pkg.py").write_text(PLUGIN.format(kind="steps_installed"))
    info = tmp_path / "lab_pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-pkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mage_kit.components]\nlab = lab_pkg\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = digits()
    data["model"]["mask_ratio"] = {"kind": "steps_installed"}
    assert mk.Recipe.parse(data).model.mask_ratio.kind == "steps_installed"
