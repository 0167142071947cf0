"""The house: imports run downwards only, and never between the families of one layer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAMILIES = (
    "tokenizers", "mask_ratios", "paddings", "encoders", "decoders", "heads", "losses", "schedules", "selections",
    "datasets",
)  # fmt: skip
LAYERS: dict[str, int] = {
    **dict.fromkeys(
        (
            "checks",
            "errors",
            "files",
            "machine",
            "grid",
            "fields",
            "draws",
            "registry",
            "signature",
            "plugins",
            "precision",
            "processes",
            "progress",
            "version",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "batch_norm",
            "block_settings",
            "blocks",
            "condition",
            "embedding",
            "image_files",
            "pictures",
            "predictions",
            "randaugment",
            "transforms",
        ),
        2,
    ),
    **dict.fromkeys(FAMILIES, 3),
    "models": 4,
    **dict.fromkeys(("recipes", "storage", "legacy", "loading"), 5),
    **dict.fromkeys(("generation", "planning"), 6),
    "editing": 7,
    "training": 8,
    "evaluation": 9,
    **dict.fromkeys(("report", "demo_page"), 10),
    "jobs": 11,
    "cli": 12,
}
HEAVY = ("triton", "xformers", "lightning_fabric", "sklearn", "matplotlib", "jinja2", "gradio", "tensorboard")


def modules() -> list[tuple[str, Path]]:
    found = [
        (path.relative_to(ROOT / "mage_kit").parts[0].removesuffix(".py"), path)
        for path in (ROOT / "mage_kit").rglob("*.py")
    ]
    return [(part, path) for part, path in found if part != "__init__"]


def imports(path: Path, top_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "mage_kit" else []
    return names


@pytest.mark.parametrize(("part", "path"), modules(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_imports_run_downwards(part: str, path: Path) -> None:
    assert part in LAYERS, f"{part} has no layer: name it here and in docs/architecture.md"
    for name in imports(path):
        words = name.split(".")
        if words[0] != "mage_kit" or len(words) < 2 or words[1] == part:
            continue
        used = words[1]
        if LAYERS[part] == 1 and LAYERS[used] == 1:
            continue  # layer 1 is one room
        below = LAYERS[used] < LAYERS[part] or (LAYERS[part], LAYERS[used]) in ((2, 2), (5, 5))
        assert below, f"{path}: layer {LAYERS[part]} imports {name} of layer {LAYERS[used]}"


def test_kernels_know_nothing_of_the_toolkit() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots <= {
            "__future__",
            "collections",
            "contextlib",
            "ctypes",
            "math",
            "dataclasses",
            "os",
            "sys",
            "time",
            "typing",
            "torch",
            "mage_kernels",
            "triton",
            "xformers",
        }, path


def test_heavy_libraries_are_imported_inside_functions_only() -> None:
    for part, path in modules():
        for name in imports(path, top_only=True):
            heavy = name.split(".")[0] in HEAVY
            assert not heavy or (part == "training" and name.startswith("lightning_fabric")), f"{path} imports {name}"


def test_no_hidden_geometry() -> None:
    """Numbers of the published vocabulary belong to the legacy importer."""
    for part, path in modules():
        if part in ("legacy",):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and node.value in (1100, 2024, 2025)), path
