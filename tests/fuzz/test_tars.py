"""Tar files from strangers: refused in words, or a data set whose every picture is read or named as broken."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.datasets import Dataset
from mage_kit.datasets.tar_headers import DamageError, read_header
from mage_kit.datasets.tar_shards import TarShards
from mage_kit.images.transforms import Augment
from tests.datasets.test_tar_samples import PIXELS, _own_cache
from tests.fuzz.judge import outcome
from tests.fuzz.mutations import mutate_bytes

__all__ = ["_own_cache"]  # used by pytest

FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    """Small tar files of each form with links, folders, long names and labels of each kind."""
    return [_original(form, is_long) for form in FORMS for is_long in (False, True)]


def _original(form: int, is_long: bool) -> bytes:
    file, start = io.BytesIO(), "long/" * 40 if is_long and form != tarfile.USTAR_FORMAT else ""
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers={"comment": "whole"}) as tar:
        members: list[tuple[str, bytes, bytes]] = [("folder", tarfile.DIRTYPE, b"")]
        for number in range(3):
            members.append((f"{start}{number}.png", tarfile.REGTYPE, PIXELS[10 * number]))
            members.append((f"{start}{number}.cls", tarfile.REGTYPE, b"%d" % number))
        members += [("x/4.jpg", tarfile.SYMTYPE, b""), ("5.png", tarfile.LNKTYPE, b"")]
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = {"x/4.jpg": f"../{start}0.png", "5.png": f"{start}1.png"}.get(name, "")
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sign(data: bytes, draw: random.Random) -> bytes:
    """Change one field of one header and state the right sum again: else a reader stops there, and sees no more."""
    places = [place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"]
    if not places:
        return data
    place = draw.choice(places)
    block = bytearray(data[place : place + 512])
    start, length = draw.choice(((124, 12), (124, 12), (0, 100), (157, 100), (345, 155), (257, 8), (482, 1)))
    what = draw.randrange(4)
    if what == 0:
        block[156:157] = bytes([draw.choice(b"0123567LKxgXSDMV\0?")])
    elif what == 1:
        block[124:136] = tarfile.itn(draw.choice((-512, -1024, 1 << 20, 1 << 33, 1 << 80)), 12, tarfile.GNU_FORMAT)
    else:
        block[start : start + length] = mutate_bytes(bytes(block[start : start + length]), draw).ljust(512)[:length]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:place] + bytes(block) + data[place + 512 :]


def try_case(number: int, originals: list[bytes], folder: Path) -> bool:
    """Read whatever can be read; return whether that is anything."""
    draw = random.Random(f"tar-{number}")
    data = draw.choice(originals)
    for _ in range(draw.choice((1, 1, 2, 5))):
        data = (sign if draw.random() < 0.6 else mutate_bytes)(data, draw)
    file = folder / f"{number}.tar"
    file.write_bytes(data)
    settings: dict[str, Any] = {"picture": ("png", "jpg")}
    settings |= {"keys": draw.choice(("first_dot", "last_dot")), "label_from": draw.choice((None, "cls", "folder"))}

    def read() -> Dataset:
        return TarShards((16, 16), 3, augment=Augment(filter="bicubic"), path=str(file), max_broken=1.0, **settings)

    images = outcome(number, read)
    if isinstance(images, Exception):
        subjects = (f"path: '{file}', ", "label_from: 'folder', ", "label_from: 'cls', ")
        assert isinstance(images, MageKitError) and str(images).startswith(subjects), repr(images)
        return False
    for place in range(len(images)):
        view = outcome((number, place), lambda place=place: images.still(place))
        assert isinstance(view, BrokenImageError) or view.views[0].shape == (3, 16, 16), view
        assert images.label(place) is None or 0 <= images.label(place) < len(images.classes)
    outcome((number, "identity"), images.identity)
    return True


def test_some(originals: list[bytes], tmp_path: Path) -> None:
    count = sum(try_case(number, originals, tmp_path) for number in range(60))
    assert 10 < count < 60, "mutations that are always, or never, refused show nothing"


@pytest.mark.slow
def test_five_hundred(originals: list[bytes], tmp_path: Path) -> None:
    for number in range(60, 560):
        try_case(number, originals, tmp_path)


def test_headers_from_any_place(originals: list[bytes], tmp_path: Path) -> None:
    """Any bytes, even with the right sum, give a header that leads on, an end, or damage."""
    file, draw = tmp_path / "a.tar", random.Random(0)
    for number in range(300):
        data = draw.choice(originals)
        for _ in range(3):
            data = sign(data, draw)
        file.write_bytes(data)
        with file.open("rb") as raw:
            offset: int = 0
            while offset <= len(data):
                header = outcome((number, offset), lambda at=offset, raw=raw: read_header(raw.fileno(), at))
                if header is None or isinstance(header, DamageError):
                    break
                assert header.end > offset and header.size >= 0 and header.end >= header.offset > offset, header
                offset = header.end
