"""Shared fixtures. Set before any kernel is decorated: Triton reads it then."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import sys
import tempfile
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Iterator

import pytest

import mage_kit as mk
from mage_kit.base.plugins import CONSENT
from mage_kit.base.registry import FAMILIES
from tests import build


def forget_new_kinds() -> Iterator[None]:
    """Put the registries back as they were, so that no test sees another's components; plug-ins are imported anew."""
    before = {family: dict(registry._entries) for family, registry in FAMILIES.items()}
    yield
    for family, entries in before.items():
        for kind in FAMILIES[family]._entries.keys() - entries.keys():
            module = FAMILIES[family]._entries[kind].cls.__module__
            if module.startswith("tests.plugins.") or module.split(".")[0] not in ("tests", "mage_kit", "__main__"):
                sys.modules.pop(module, None)
        FAMILIES[family]._entries = entries


# Fixtures of a module run before those of its tests: what they register lasts as long as the module.
module_registries = pytest.fixture(autouse=True, scope="module")(forget_new_kinds)
registries = pytest.fixture(autouse=True)(forget_new_kinds)


@pytest.fixture(autouse=True)
def room_for_large_ones(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two tests of 12 GiB at once would end in the kernel killing one, and the whole run waiting for it."""
    if request.node.get_closest_marker("large") is None:
        yield
        return
    with (Path(tempfile.gettempdir()) / "mage-kit-large-test.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # glibc would keep it for this process


@pytest.fixture(autouse=True, scope="session")
def consent() -> None:
    """Plug-ins of the tests lie in the current folder; tests/base/test_consent.py takes this back."""
    os.environ[CONSENT] = "1"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indices of tar files go to a folder of the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny() -> mk.Mage:
    """A small MAGE in evaluation mode: 4 x 4 tokens of 16 x 16 grey images, 32 codes."""
    return build.mage().eval()
