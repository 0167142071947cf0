"""What the tokenizers' benchmark is made of: its photographs, its rows, its page."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from benchmarks.photograph_crops import is_held_out, photographs, tiles, write_crops
from benchmarks.qt_resources import Resources
from benchmarks.tokenizer_rows import Row, stored
from benchmarks.tokenizer_table import verdicts, write_page
from benchmarks.tokenizers import BEST, QUANTIZERS, RATES, rows
from mage_kit.base.files import write_json

FACTS = {"sha256": "0" * 64, "training": {"photographs": 1, "crops": 2}, "held_out": {"photographs": 1, "crops": 2}}


def resource_file(path: Path, members: dict[str, bytes], version: int = 3) -> Path:
    """Write Qt's layout by hand: one folder of files, stored, or compressed where that is smaller."""
    names, data, children = b"", b"", b""

    def name(text: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return offset

    tail = b"\0" * 8 if version > 1 else b""
    root = struct.pack(">IHII", name(""), 2, 1, 1) + tail
    folder = struct.pack(">IHII", name("pictures"), 2, len(members), 2) + tail
    for text, content in members.items():
        packed = struct.pack(">I", len(content)) + zlib.compress(content)
        is_packed = len(packed) < len(content)
        children += struct.pack(">IHHHI", name(text), 1 if is_packed else 0, 0, 0, len(data)) + tail
        body = packed if is_packed else content
        data += struct.pack(">I", len(body)) + body
    tree = root + folder + children
    head = 20 + (4 if version == 3 else 0)
    offsets = (head, head + len(tree), head + len(tree) + len(data))
    header = struct.pack(">4sIIII", b"qres", version, *offsets) + (b"\0" * 4 if version == 3 else b"")
    path.write_bytes(header + tree + data + names)
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
def test_members_of_a_resource_file(version: int, tmp_path: Path) -> None:
    members = {"a.webp": b"x" * 1000, "b.svg": b"1234", "ü.webp": bytes(range(256))}
    resources = Resources.open(resource_file(tmp_path / "a.rcc", members, version))
    read = {path: resources.read(node) for path, node in resources.members()}
    assert read == {f"pictures/{name}": content for name, content in members.items()}
    (tmp_path / "b.rcc").write_bytes(b"none")
    with pytest.raises(ValueError, match="must be a resource file of Qt's"):
        Resources.open(tmp_path / "b.rcc")


def test_crops_of_what_scikit_learn_has(tmp_path: Path) -> None:
    """Without the other package: one photograph to train on, one held out, and no crop of one among the other's."""
    facts = write_crops(tmp_path / "crops", 64, tmp_path / "nowhere")
    assert [name for name, _ in photographs(tmp_path / "nowhere")] == [
        "scikit-learn/china.jpg",
        "scikit-learn/flower.jpg",
    ]
    assert facts["training"]["photographs"] == facts["held_out"]["photographs"] == 1 and facts["package"] == "none"
    names = [sorted(path.name for path in (tmp_path / "crops" / part).iterdir()) for part in ("training", "held_out")]
    assert all(name.startswith("scikit-learn-flower") for name in names[0]) and len(names[0]) == 1 + 6 + 12
    assert all(name.startswith("scikit-learn-china") for name in names[1])
    assert write_crops(tmp_path / "crops", 64, tmp_path / "nowhere") == facts
    assert is_held_out("scikit-learn/china.jpg") and not is_held_out("scikit-learn/flower.jpg")


def test_tiles_do_not_overlap() -> None:
    pixels = np.arange(300 * 200, dtype=np.int64).reshape(200, 300)
    picture = Image.fromarray((pixels % 251).astype(np.uint8)).convert("RGB")
    crops = list(tiles(picture, 64))
    assert len(crops) == 1 + 2 * 3 + 3 * 4 and {crop.size for crop in crops} == {(64, 64)}


def test_rows_differ_in_what_they_say_alone() -> None:
    """Equal steps, crops and bits; each can be built; a fingerprint knows all of it but where the crops lie."""
    every = rows()
    assert len({row.name for row in every}) == len(every)
    bits = set()
    for row in every:
        recipe = row.recipe(Path("crops"), 100)
        spec = mk.check(recipe).tokenizer.spec
        bits.add(spec.grid.size * math.log2(spec.codes or 1))
    assert len(bits) == 1, "ten bits a token each"
    assert {row.name for row in every if row.modelled} == {f"squared-lr{BEST:g}", *QUANTIZERS}
    seeds = [row for row in every if row.training["kind"] == "adversarial"]
    assert len(seeds) == 6 and {row.seed for row in seeds} == {0, 1, 2}
    marks = {row.fingerprint(FACTS, 100) for row in every}
    assert len(marks) == len(every) and every[0].fingerprint(FACTS, 101) not in marks


def test_figures_are_taken_where_they_are_of_this_row(tmp_path: Path) -> None:
    row = rows()[0]
    assert stored(row, tmp_path, FACTS, 100) is None
    write_json(tmp_path / f"{row.name}.json", {"fingerprint": row.fingerprint(FACTS, 100)})
    assert stored(row, tmp_path, FACTS, 100) is not None
    assert stored(row, tmp_path, FACTS, 101) is None
    assert stored(row, tmp_path, {**FACTS, "sha256": "1" * 64}, 100) is None


def figures(row: Row, psnr: float, distance: float) -> dict[str, Any]:
    judged = {kind: {"network": kind, "value": distance, "floor": 1.0} for kind in ("squeezenet", "efficientnet_lite0")}
    reconstructions = {"psnr": psnr, "ssim": 0.5, "chroma_correlation": 0.9, "codes_used": 9, "perplexity": 8.0}
    return {
        "row": row.name, "label": row.label, "training": row.training, "seed": row.seed, "steps": 10, "bits": 2560.0,
        "codes": 1024, "seconds": 5.0, "frechet": judged, "reconstructions": reconstructions,
    }  # fmt: skip


def test_the_page_compares_with_the_best_rate(tmp_path: Path) -> None:
    psnr = dict(zip((f"squared-lr{rate:g}" for rate in RATES), (20.0, 22.0, 21.0), strict=True))
    made = [
        figures(row, psnr.get(row.name, 21.5), 6.0 if row.training["kind"] == "adversarial" else 10.0) for row in rows()
    ]
    lines = verdicts(made)
    assert lines[0] == "Squared error's best rate of 3 is 0.002 (22.00 dB)."
    assert "0.60 of squared error's distance (within 0.7)" in lines[1] and "(3 seeds, squared error 3)" in lines[1]
    text = write_page(made[:3], FACTS, tmp_path, len(made)).read_text()
    assert f"3 of {len(made)} rows have been run" in text and "| 10.00 |" in text and "6.00*" in text
