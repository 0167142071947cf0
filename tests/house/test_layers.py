"""The house: imports run downwards only, and never between the families of one layer."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FAMILIES = (
    "tokenizers", "mask_ratios", "paddings", "encoders", "decoders", "heads", "losses", "schedules", "selections",
    "datasets", "optimizers", "adversaries",
)  # fmt: skip
FLOORS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("images", "layers"),
    ("quantizers",),
    FAMILIES,
    ("models",),
    ("recipes",),
    ("legacy",),
    ("perceptual", "store"),
    ("generation", "planning"),
    ("editing",),
    ("training",),
    ("evaluation",),
    ("demo_page", "report"),
    ("studies",),
    ("cli",),
)
LAYERS = {room: number for number, floor in enumerate(FLOORS, start=1) for room in floor}
LOOSE = {"__init__.py", "__main__.py", "py.typed"}
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
        assert LAYERS[used] < LAYERS[part], f"{path}: floor {LAYERS[part]} imports {name} of floor {LAYERS[used]}"


def test_nothing_lies_loose() -> None:
    """Every module has a room; a newcomer finds it by what it is about."""
    loose = {path.name for path in (ROOT / "mage_kit").iterdir() if path.is_file()}
    assert loose <= LOOSE, f"{sorted(loose - LOOSE)}: no room"


def test_no_two_modules_share_a_name() -> None:
    """But for what every room has, and a command beside the library that it calls."""
    places: dict[str, list[Path]] = {}
    for path in [*(ROOT / "mage_kit").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        if path.name not in ("__init__.py", "base.py") and path.parent.name != "cli":
            places.setdefault(path.name, []).append(path.relative_to(ROOT))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not shared, shared


def test_files_and_functions_stay_small() -> None:
    """No file past 300 lines and no function past 60; half of them no longer than 87 and 7."""
    files, functions = {}, {}
    for path in [*(ROOT / "mage_kit").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        text = path.read_text()
        files[str(path)] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                functions[f"{path}:{node.name}:{node.lineno}"] = node.end_lineno - node.lineno + 1
    assert not {place: size for place, size in files.items() if size > 300}
    assert not {place: size for place, size in functions.items() if size > 60}
    assert statistics.median(files.values()) <= 87 and statistics.median(functions.values()) <= 7


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
            "importlib",
            "json",
            "pathlib",
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


def test_the_house_has_no_loose_modules_and_no_circles() -> None:
    """As the command counts it that compares this house with earlier ones."""
    from benchmarks.house import count

    figures = count(ROOT)
    assert (figures["loose modules"], figures["upward imports"], figures["circles"]) == (0, 0, 0)
