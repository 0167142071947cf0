"""The command line: what a user types, what comes out, and one message with exit code 2 for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mage_kit as mk
from tests import build
from tests.recipes.test_recipe import PLANTED, RECIPES, plant

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    command = [sys.executable, "-m", "mage_kit.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd or ROOT)


def refused(*arguments: str, says: str, cwd: Path | None = None) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and says in done.stderr, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.save(build.mage(), tmp_path_factory.mktemp("models") / "m")


def test_check_says_what_holds() -> None:
    done = run("check", "recipes/mage_vitb.json")
    assert (
        done.returncode == 0
        and "holds" in done.stdout
        and "16x16 tokens, 1024 codes, 128 of 256 dropped" in done.stdout
    )


def test_eight_planted_mistakes_give_eight_lines_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(plant()))
    text = refused("check", str(tmp_path / "bad.json"), says="8 problems")
    lines = [line for line in text.splitlines() if line.startswith("$.")]
    assert len(lines) == 8 and all(any(want in line for line in lines) for _, _, want in PLANTED)


def test_a_fixed_drop_with_cosine_ratios_is_refused() -> None:
    refused(
        "check", "recipes/digits.json", "--set", "model.mask_ratio=cosine", says="$.model.mask_ratio and $.model.drop"
    )
    assert (
        run("check", "recipes/digits.json", "--set", "model.mask_ratio=cosine", "--set", "model.drop=lowest").returncode
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "nowhere.json"], "no such file"),
        (["check", "recipes/digits.json", "--set", "epochs"], "path=value"),
        (["train", "recipes/mage_vitb.json", "--out", "{tmp}/r"], "$.data.path: null, must name a folder"),
        (["train", "recipes/mage_vitb.json", "--set", "data.path=nowhere", "--out", "{tmp}/r"], "must be a folder"),
        (["train", "recipes/digits.json", "--out", "recipes"], "is not empty"),
        (["generate", "recipes"], "holds no recipe.json"),
        (["eval", "probe-fast", "nowhere"], "there is no such file or folder"),
        (["ls", "mask_ratio"], "did you mean 'mask_ratios'"),
        (["show", "cosin"], "did you mean 'cosine'"),
        (["show", "power", "--set", "exponent=-1"], "$.exponent: -1, must be above 0"),
        (["demo", "--out", "recipes", "--overwrite"], "only run folders are overwritten"),
        (["schema", "--out", "README.md"], "exists"),
        (["show", "cosine", "--set", "bogus=1"], "$.bogus: unknown"),
        (["check", "recipes/digits.json", "--set", "name[0]=x"], "no place '0'"),
        (["check", "recipes/digits.json", "--set", "model.losses[0.weight=3"], "is no path"),
        (["check", "recipes/digits.json", "--set", "name=../up"], "$.name"),
        (["train", "recipes/digits.json", "--resume", "--out", "{tmp}/none"], "no run there"),
        (["compare", "recipes/digits.json", "--vary", "model.mask_ratio=uniform"], "at least two values"),
        (["generate", "x", "-n", "0"], "Invalid value for '-n'"),
        (["nonsense"], "No such command"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message(arguments: list[str], says: str, tmp_path: Path) -> None:
    refused(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments), says=says)


BROKEN = """
import torch
from mage_kit import MASK_RATIOS, SCHEDULES, SELECTIONS, MaskRatio, Schedule, Selection

@MASK_RATIOS.register("bad_ratio")
class BadRatio(MaskRatio):
    "A ratio."
    low, high = 0.5, 1.0
    def sample(self, count, generator):
        return {draw}

@SCHEDULES.register("bad_curve")
class BadCurve(Schedule):
    "A curve."
    def remaining(self, progress):
        return {share}
"""


@pytest.mark.parametrize(
    ("draw", "share", "override", "says"),
    [
        ("None", "1 - progress", "model.mask_ratio=bad_ratio", "BadRatio drew NoneType"),
        ("torch.full((count,), 0.6)", "1 - progress", "model.mask_ratio=bad_ratio", "BadRatio drew float32"),
        ("torch.zeros(count).double()", "1 - progress", "model.mask_ratio=bad_ratio", "must be (4,) in [0.5, 1]"),
        ("{}['x']", "1 - progress", "model.mask_ratio=bad_ratio", "KeyError: 'x'"),
        ("None", "(0.5 - progress) ** 0.5", "model.generation.schedule=bad_curve", "BadCurve gives"),
        ("None", "1 + progress", "model.generation.schedule=bad_curve", "BadCurve gives"),
        ("None", "float('nan')", "model.generation.schedule=bad_curve", "BadCurve gives nan"),
    ],
)
def test_a_plugins_bug_is_named(draw: str, share: str, override: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad_lab.py").write_text(BROKEN.replace("{draw}", draw).replace("{share}", share))
    recipe = str(RECIPES / "digits.json")
    refused("check", recipe, "--set", 'plugins=["bad_lab"]', "--set", override, says=says, cwd=tmp_path)


def test_a_plugin_that_exits_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "leaver.py").write_text("import sys; sys.exit(0)")
    refused(
        "check", str(RECIPES / "digits.json"), "--set", 'plugins=["leaver"]', says="cannot be imported", cwd=tmp_path
    )


def test_overwriting_spares_what_no_run_writes(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text((RECIPES / "digits.json").read_text())
    (tmp_path / "thesis.txt").write_text("mine")
    refused("demo", "--out", str(tmp_path), "--overwrite", says="holds thesis.txt, which no run writes")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_run_with_a_plugin_is_read_where_its_module_is(tmp_path: Path) -> None:
    from tests.recipes.test_recipe import PLUGIN
    from tests.training.test_training import SMALL

    lab, elsewhere = tmp_path / "lab", tmp_path / "elsewhere"
    lab.mkdir()
    elsewhere.mkdir()
    (lab / "my_ratio.py").write_text(PLUGIN.format(kind="mine"))
    changes = [*SMALL, 'plugins=["my_ratio"]', 'model.mask_ratio={"kind": "mine"}', "training.epochs=0.5"]
    data = json.loads(mk.Recipe.load(RECIPES / "digits.json", SMALL).to_json())
    (lab / "r.json").write_text(json.dumps(data))
    options = [part for change in changes[len(SMALL) :] for part in ("--set", change)]
    trained = run("train", str(lab / "r.json"), *options, "--out", "run", cwd=elsewhere)
    assert trained.returncode == 0, trained.stderr
    refused("generate", "elsewhere/run", "-n", "2", says=f"it came from '{lab}' when this was written", cwd=tmp_path)
    assert run("generate", str(elsewhere / "run"), "-n", "2", cwd=lab).returncode == 0


def test_ls_shows_every_component_with_its_parameters() -> None:
    done = run("ls")
    for registry in mk.FAMILIES.values():
        assert registry.family in done.stdout
        shipped = [entry.kind for entry in registry if entry.cls.__module__.startswith("mage_kit.")]
        assert shipped and all(kind in done.stdout for kind in shipped)
    one = run("ls", "mask_ratios", "--plugin", "examples.triangular")
    assert "triangular" in one.stdout and "Smallest ratio" in one.stdout and "0.25" in one.stdout


def test_show_draws_a_distribution_and_counts(tmp_path: Path) -> None:
    ratio = run("show", "truncated_normal", "--set", "high=0.6", "--out", str(tmp_path / "r.png"))
    assert ratio.returncode == 0 and "█" in ratio.stdout and "drawn" in ratio.stdout
    assert Image.open(tmp_path / "r.png").size[0] > 300
    both = run("show", "cosine")
    assert "mask_ratios: cosine" in both.stdout and "schedules: cosine" in both.stdout and "255" in both.stdout
    refused("show", "uniform", "--out", str(tmp_path / "r.png"), says="exists")


def test_generate_writes_pictures_with_their_settings(model_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    assert run("generate", str(model_folder), "-n", "5", "--seed", "3", "--out", str(target)).returncode == 0
    settings = json.loads(Image.open(target).info["mage_kit"])
    assert settings["seed"] == 3
    assert settings["decoding"]["selection"] == {"kind": "gumbel_confidence", "temperature": 6.0}
    assert json.loads(target.with_suffix(".json").read_text()) == settings
    refused("generate", str(model_folder), "--out", str(target), says="exists")
    first = target.read_bytes()
    assert (
        run("generate", str(model_folder), "-n", "5", "--seed", "3", "--out", str(target), "--overwrite").returncode
        == 0
    )
    assert target.read_bytes() == first
    folder = tmp_path / "many"
    assert run("generate", str(model_folder), "-n", "3", "--separate", "--out", str(folder)).returncode == 0
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == ["000000.png", "000001.png", "000002.png", "settings.json"]
    assert Image.open(folder / "000000.png").size == (16, 16)


def test_schema_is_json_on_standard_output() -> None:
    assert json.loads(run("schema").stdout)["title"] == "mage_kit recipe"


@pytest.mark.slow
def test_one_table_of_variants_with_a_plugin(tmp_path: Path) -> None:
    """The README's comparison, made small: three mask ratios, one of them from a researcher's file."""
    from tests.training.test_training import SMALL

    changes = [*SMALL, 'plugins=["examples.triangular"]', "evaluation.samples=20", "evaluation.strengths=[0.1]"]
    options = [part for change in changes for part in ("--set", change)]
    vary = "model.mask_ratio=truncated_normal,uniform,triangular"
    done = run("compare", "recipes/digits.json", *options, "--vary", vary, "--out", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("truncated", "uniform", "triangular", "Fréchet"))
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"]
    assert len(rows) == 3 and all(0 < row["means"]["linear probe"]["mean"] <= 1 for row in rows)
    assert all(row["means"].keys() == rows[0]["means"].keys() and len(row["means"]) == 4 for row in rows)
    assert done.stderr.count("reusing the tokenizer") == 2 and "one half of the images" in done.stdout


@pytest.mark.slow
def test_demo_leaves_pictures_and_metrics(tmp_path: Path) -> None:
    from tests.training.test_training import SMALL

    options = [
        part for change in [*SMALL, "evaluation.samples=70", "evaluation.strengths=[0.1]"] for part in ("--set", change)
    ]
    done = run("demo", "--out", str(tmp_path / "d"), *options)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "d" / "metrics.json").read_text())
    promised = {
        "linear_probe_top1", "untrained_probe_top1", "raw_pixel_top1", "reconstruction_psnr", "frechet_generated",
        "frechet_real", "frechet_untrained", "classifier_accuracy", "sure_share", "class_shares",
    }  # fmt: skip
    assert promised <= metrics.keys()
    assert metrics["classifier_accuracy"] >= 0.97 and metrics["raw_pixel_top1"] > 0.95
    assert "digits" in (tmp_path / "d" / "report.html").read_text()
    for name in ("samples.png", "reconstructions.png", "curves.png", "nearest.png"):
        assert Image.open(tmp_path / "d" / name).size[0] >= 256
    probe = run("eval", "probe-fast", str(tmp_path / "d"), "--json")
    assert json.loads(probe.stdout)["rows"]["mean"]["top1"] == pytest.approx(metrics["linear_probe_top1"])
    refused("demo", "--out", str(tmp_path / "d"), says="is not empty")


def test_recipes_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for path in RECIPES.glob("*.json"):
        if not path.name.endswith(".schema.json"):
            assert path.name in text, f"{path.name} is not in the README"
