"""Pictograms: classes, a split without leaks, a cache that may be damaged or absent."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import features

import mage_kit as mk
from mage_kit.datasets import pictograms
from mage_kit.datasets.pictogram_classes import CLASSES, base_of, class_of
from mage_kit.datasets.pictograms import Pictograms


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def test_pictures_and_classes() -> None:
    data = Pictograms((64, 64), 3)
    assert 2000 < len(data) < 2200 and set(data.classes) == set(CLASSES)
    counts = Counter(data.classes[label] for label in data.labels())
    assert set(counts) == set(CLASSES) and min(counts.values()) >= 20
    pixels = np.stack([np.asarray(data.image(place)) for place in range(0, len(data), 7)])
    assert pixels.shape[1:] == (64, 64, 3)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    assert (border > 200).mean() > 0.99, "drawn whole, on white"
    assert pixels.std(axis=(1, 2, 3)).min() > 1, "none is blank"
    assert len({data.image(place).tobytes() for place in range(len(data))}) == len(data)
    sample = data.sample(5, 0, 0)
    assert sample.views[0].shape == (3, 64, 64) and data.name(5) == data._names[5]
    assert "OpenMoji" in data.credit and "CC BY-SA" in data.credit


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("1F600", "faces"), ("1F1E9-1F1EA", "flags"), ("1F1E9", "letters"), ("1F34C", "food"), ("1F98A", "animals"),
        ("1F468-200D-1F33E", "people"), ("2764-FE0F", "hearts"), ("1F697", "transport"), ("1F4F7", "technology"),
        ("1F3E0", "buildings"), ("26C5", "weather_and_sky"), ("1F457", "clothing"), ("E0A0", None),
    ],
)  # fmt: skip
def test_classes_are_those_of_the_code_points(name: str, kind: str | None) -> None:
    assert class_of(name) == kind


def test_variants_of_a_picture_lie_on_one_side() -> None:
    """A woman farmer is the farmer; no base is in training and held out."""
    assert base_of("1F468-200D-1F33E") == base_of("1F469-1F3FD-200D-1F33E") == "1F33E"
    assert base_of("1F468-200D-1F469-200D-1F466") == base_of("1F9D1") == "persons"
    assert base_of("1F3C3-200D-2640-FE0F") == base_of("1F3C3") == "1F3C3"
    parts = {part: Pictograms((32, 32), 3, part=part, side=32) for part in ("all", "training", "held_out")}
    bases = {part: {base_of(name) for name in data._names} for part, data in parts.items()}
    assert not bases["training"] & bases["held_out"] and bases["training"] | bases["held_out"] == bases["all"]
    assert 0.05 < len(parts["held_out"]) / len(parts["all"]) < 0.2
    assert parts["training"].identity() != parts["held_out"].identity()


def test_a_damaged_cache_is_drawn_again(cache: Path) -> None:
    whole = Pictograms((32, 32), 3, side=32)
    (file,) = cache.rglob("*32px.npz")
    begin = time.monotonic()
    again = Pictograms((32, 32), 3, side=32)
    assert again.identity() == whole.identity() and time.monotonic() - begin < 2, "read, not drawn"
    with np.load(file) as stored:
        count = len(stored["pixels"])
    assert pictograms._read_cache(file, count, 32) is not None
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    assert pictograms._read_cache(file, count, 32) is None
    assert Pictograms((32, 32), 3, side=32).identity() == whole.identity()


def test_where_nothing_can_be_kept_they_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    pictograms._write_cache(tmp_path / "file" / "below" / "x.npz", np.zeros((1, 2, 2, 3), np.uint8))
    assert pictograms._read_cache(tmp_path / "absent.npz", 1, 2) is None


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(mk.MageKitError, match="raqm"):
        next(pictograms._draw(["1F600"], pictograms._font(), 32))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mk.MageKitError, match=r"pip install 'mage-kit\[pictograms\]'"):
        Pictograms((32, 32), 3)
