"""Samples in tar files as people have them: dots in names, several pictures, labels everywhere; every member counts."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from pathlib import Path

import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.datasets import Dataset
from tests.datasets.test_data import encoded, made

PIXELS = {shade: encoded(Image.new("RGB", (20, 20), (shade,) * 3), "PNG") for shade in range(0, 256, 10)}


def write_tar(file: Path, members: list[tuple[str, bytes | str]]) -> Path:
    """Write members by name; text is what they hold."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(file: Path, **settings: object) -> Dataset:
    return made("tar_shards", file, **settings)


def shade(data: Dataset, place: int) -> int:
    return int(data.still(place).views[0].mean())


def labels(data: Dataset) -> list[str | None]:
    numbers = [data.label(place) for place in range(len(data))]
    return [None if number is None else data.classes[number] for number in numbers]


def counted(data: Dataset) -> int:
    """Members that the summary accounts for."""
    kinds = data.summary.partition(", as ")[2].split("; ")
    return sum(int(kind.rpartition(": ")[2].replace(",", "")) for kind in kinds)


def test_names_with_dots_lose_no_picture_in_silence(tmp_path: Path) -> None:
    """By webdataset's rule all ten are members of one sample, "img"."""
    file = write_tar(tmp_path / "a.tar", [(f"set/img.{n:04d}.png", PIXELS[10 * n]) for n in range(10)])
    rule = (
        r"1 of 1 samples hold several pictures, as 'set/img': 0000\.png, .*data\.picture .*; or, .*data\.keys must be"
    )
    with pytest.raises(mk.MageKitError, match=rule):
        opened(file)
    data = opened(file, keys="last_dot")
    assert len(data) == 10 and [shade(data, n) for n in range(10)] == [10 * n for n in range(10)]
    assert data.name(3).endswith("a.tar/set/img.0003.png") and not data.passed_over
    only = opened(file, picture=["0004.png"])
    assert len(only) == 1 and shade(only, 0) == 40, "an index of other rules was taken"


def test_which_picture_of_a_sample_is_a_setting(tmp_path: Path) -> None:
    members = [(f"{n}.{kind}", PIXELS[shade]) for n in range(3) for kind, shade in (("seg.png", 200), ("png", 50))]
    file = write_tar(tmp_path / "a.tar", [*members, ("3.seg.png", PIXELS[200])])
    with pytest.raises(mk.MageKitError, match=r"3 of 4 samples .*'0': seg\.png, png; data\.picture must say which"):
        opened(file)
    with pytest.raises(mk.MageKitError, match=r"1 of 4 image files .*1 \.png, its sample holds no picture that data"):
        opened(file, picture=["png"])
    data = opened(file, picture=["png"], max_broken=0.25)
    assert len(data) == 3 and shade(data, 0) == 50
    assert data.summary.startswith("members of the tar files (1): 7, as ") and counted(data) == 7
    assert "pictures beside the chosen one (.png): 3" in data.summary
    both = opened(file, picture=["PNG", "seg.png"])
    assert len(both) == 4 and [shade(both, n) for n in (0, 3)] == [50, 200], "the first that a sample has"
    with pytest.raises(mk.MageKitError, match=r"picture: 'heic', must be, or end in a dot and, one of"):
        opened(file, picture=["heic"])


WORDS = ("dog", "cat", "dog", "cat")


def of_words(write: object) -> list[tuple[str, bytes | str]]:
    parts = [(f"{n}.png", PIXELS[0]) for n in range(4)]
    return [*parts, *(write(n, word) for n, word in enumerate(WORDS))]  # type: ignore[operator]  # `write` is a lambda of the parameters


@pytest.mark.parametrize(
    ("label_from", "write"),
    [
        ("json:kind", lambda n, word: (f"{n}.json", json.dumps({"kind": word, "other": 3}))),
        ("txt", lambda n, word: (f"{n}.txt", f" {word}\n")),
        (None, lambda n, word: (f"{n}.txt", word)),
        (None, lambda n, word: (f"{n}.cls", word)),
        ("name", lambda n, word: (f"{n}.NAME", word)),
    ],
)
def test_labels_that_are_words(label_from: str | None, write: object, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", of_words(write))
    data = opened(file, label_from=label_from)
    assert data.classes == ("cat", "dog") and labels(data) == list(WORDS) and counted(data) == 8
    assert opened(file, label_from="none").classes == ()


def test_numbers_in_json(tmp_path: Path) -> None:
    texts = ['{"y": 2}', '{"y": "0"}', '{"y": true}', '{"x": 1}', "no json", "[1]"]
    parts = [part for n, text in enumerate(texts) for part in ((f"{n}.png", PIXELS[0]), (f"{n}.json", text))]
    data = opened(write_tar(tmp_path / "a.tar", parts), label_from="json:y")
    assert labels(data) == ["2", "0", None, None, None, None] and data.classes == ("0", "1", "2")
    assert "labels that cannot be read (.json): 4" in data.summary and counted(data) == 12
    with pytest.raises(
        mk.MageKitError, match=r"label_from: 'json', must be an extension without its dot, \"json:KEY\""
    ):
        opened(tmp_path / "a.tar", label_from="json")


def test_folders_are_classes_where_nothing_else_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "a.tar", [("x/dog/0.png", PIXELS[0]), ("x/dog/1.png", PIXELS[10])])
    write_tar(tmp_path / "tars" / "b.tar", [("./x/cat/0.png", PIXELS[20])])
    data = opened(tmp_path / "tars")
    assert data.classes == ("cat", "dog") and labels(data) == ["dog", "dog", "cat"]
    write_tar(tmp_path / "tars" / "c.tar", [("x/cat/1.png", PIXELS[20]), ("x/cat/1.cls", "7")])
    assert labels(opened(tmp_path / "tars")) == [None, None, None, "7"], ".cls comes first"
    assert labels(opened(tmp_path / "tars", label_from="folder")) == ["dog", "dog", "cat", "cat"]


def test_what_may_be_labels_is_said_once(tmp_path: Path) -> None:
    parts = [(f"{n % 2}/{n}.{kind}", text) for n in range(4) for kind, text in (("png", PIXELS[0]), ("json", "{}"))]
    file = write_tar(tmp_path / "a.tar", parts)
    with pytest.warns(
        FileWarning, match=r'no labels are taken; "json:KEY" or "folder" may hold some: data\.label_from'
    ):
        assert opened(file).classes == ()
    captions = [part for n in range(4) for part in ((f"{n}.png", PIXELS[0]), (f"{n}.txt", f"a photograph of {n}"))]
    with pytest.warns(FileWarning, match='"txt" may hold some'):
        assert opened(write_tar(tmp_path / "b.tar", captions)).classes == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(file, label_from="none")


def test_words_among_numbers_are_told(tmp_path: Path) -> None:
    parts = [part for n, text in enumerate(["1", "cat", "0"]) for part in ((f"{n}.png", PIXELS[0]), (f"{n}.cls", text))]
    data = opened(write_tar(tmp_path / "a.tar", parts))
    assert labels(data) == ["1", None, "0"]
    assert data.summary.endswith("1 of the labels are words among class numbers, and taken for none")


@pytest.mark.parametrize("label_from", ["json:nope", "exe"])
def test_labels_that_were_said_to_stand_where_none_do(label_from: str, tmp_path: Path) -> None:
    parts = [part for n in range(3) for part in ((f"{n}.png", PIXELS[0]), (f"{n}.json", '{"y": 1}'))]
    file = write_tar(tmp_path / "a.tar", parts)
    with pytest.raises(
        mk.MageKitError, match=rf"label_from: '{label_from}', not one sample has .* beside the pictures there are json"
    ):
        opened(file, label_from=label_from)
