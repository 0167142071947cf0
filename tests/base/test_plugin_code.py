"""What was made by other people's code does not outlive it unnoticed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import mage_kit as mk
from mage_kit.base.plugin_code import code_digest, foreign_code
from mage_kit.datasets.base import fingerprint, identity_of
from tests import build

SOURCE = '''
import numpy as np
from PIL import Image
import mage_kit as mk

@mk.DATASETS.register("plain_colours")
class PlainColours(mk.Dataset):
    """Grey pictures."""

    def __init__(self, image_size: tuple[int, int], channels: int) -> None:
        super().__init__(image_size, channels, mk.Augment())

    def __len__(self) -> int:
        return 20

    def label(self, index: int) -> None:
        return None

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.full((16, 16), SHADE + index, dtype=np.uint8))

SHADE = 10
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "colours_of_a_lab.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("colours_of_a_lab")
    sys.modules.pop("colours_of_a_lab", None)


def test_code_of_ours_is_no_foreign_code() -> None:
    assert foreign_code([build.mage(), mk.AdamW(), 3]) == {}
    assert code_digest("no_such_module") == "" and code_digest("__main__") == ""


def test_a_plugins_data_is_told_by_code_and_pixels(plugin: ModuleType) -> None:
    data = plugin.PlainColours((16, 16), 1)
    first = fingerprint(data)
    assert set(identity_of(data)) == {"images", "classes", "code_sha256", "pixels_sha256"}
    assert fingerprint(plugin.PlainColours((16, 16), 1)) == first
    plugin.SHADE = 40
    assert fingerprint(data) != first, "other pixels"
    plugin.SHADE = 10
    assert fingerprint(data) == first
    file = Path(str(plugin.__file__))
    file.write_text(SOURCE + "# another rule\n")
    assert fingerprint(data) != first, "other code"


def test_a_package_counts_with_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("a_lab")
    before = code_digest("a_lab")
    (package / "part.py").write_text("A = 2\n")
    assert before != code_digest("a_lab") != ""
    sys.modules.pop("a_lab")
