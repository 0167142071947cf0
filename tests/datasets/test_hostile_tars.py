"""Tar files built to harm whoever reads them: each ends in a sentence or a listing, in time and in little memory."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.datasets import tar_members
from mage_kit.datasets.tar_members import SPARSE, Members, read_members
from tests.datasets.test_tar_samples import PIXELS, _own_cache, opened
from tests.fuzz.judge import limited

__all__ = ["_own_cache"]  # used by pytest

BIG = 1 << 20


def number(value: int) -> bytes:
    """A size of twelve bytes: octal digits, or base 256 where these do not serve."""
    return b"%011o\0" % value if 0 <= value < 8**11 else tarfile.itn(value, 12, tarfile.GNU_FORMAT)


def header(name: bytes, size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """One block; `at386` lays bytes at that place."""
    block = bytearray(512)
    places = {0: name, 100: b"0000644\0", 124: number(size), 148: b" " * 8, 156: kind, 257: b"ustar\00000"}
    for place, content in {**places, **{int(key[2:]): value for key, value in fields.items()}}.items():
        block[place : place + len(content)] = content
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, content: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, len(content), kind, **fields) + content + bytes(-len(content) % 512)


def record(word: bytes, value: bytes) -> bytes:
    length = len(word) + len(value) + 3
    while len(b"%d" % length) + len(word) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(word) + len(value) + 3
    return b"%d %s=%s\n" % (length, word, value)


FIRST = member(b"0.png", PIXELS[10]) + member(b"1.png", PIXELS[20])
AFTER = member(b"2.png", PIXELS[30]) + bytes(1024)
LONG = record(b"comment", b"1" * (BIG - 100))


def read(folder: Path, content: bytes) -> Members:
    """List the members, in the time that a case may take and with no more memory than the file explains."""
    file = folder / "a.tar"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with limited(content[:2000]):
            members = read_members(file)
        assert tracemalloc.get_traced_memory()[1] < 16 * BIG + 8 * len(content)
    finally:
        tracemalloc.stop()
    assert [each.name for each in members.files][:2] == ["0.png", "1.png"], "what stands before it is kept"
    return members


DAMAGES: dict[str, tuple[bytes, str]] = {
    "a negative size": (header(b"back.png", -512) + AFTER, "a size that is none"),
    "a large negative size": (header(b"back.png", -len(FIRST) - 512) + AFTER, "a size that is none"),
    "a negative size in an extended header": (
        member(b"x", record(b"size", b"-512"), b"x") + AFTER,
        "size that is none",
    ),
    "a map that goes on beyond the file": (header(b"s.png", 512, b"S", at482=b"\1"), "inside the map of a sparse"),
    "a long name above its limit": (header(b"l", 2 * BIG, b"L") + bytes(2 * BIG) + AFTER, "at most 1,048,576"),
    "a long link of a gigabyte": (header(b"l", 1 << 30, b"K") + AFTER, "an extended header of 1,073,741,824 bytes"),
    "an extended header of a terabyte": (header(b"x", 1 << 40, b"x") + AFTER, "must have at most"),
    "a global header of a terabyte": (header(b"g", 1 << 40, b"g") + AFTER, "must have at most"),
    "an extended header that is cut": (header(b"x", 5000, b"x") + record(b"path", b"y"), "ends inside the extended"),
    "one path for all": (member(b"g", record(b"path", b"x" * 9999), b"g") + AFTER, "one path for all members"),
    "records that do not add up": (member(b"x", b"2 " * 200_000 + b"=", b"x") + AFTER, "does not add up"),
    "digits without an end": (member(b"x", b"1" * BIG, b"x") + AFTER, "does not add up"),
    "a name for no member": (member(b"L", b"long\0", b"L") + bytes(1024), "no member follows"),
    "another size than digits": (header(b"x", 0, at124=b"0x99999999\0") + AFTER, "a size that is none"),
    "a size beyond any disk": (header(b"huge.png", (1 << 70)) + AFTER, "unexpected end of data"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_ends_the_listing_in_words(case: str, tmp_path: Path) -> None:
    rest, words = DAMAGES[case]
    members = read(tmp_path, FIRST + rest)
    count = 3 if case == "a size beyond any disk" else 2
    assert members.damage.startswith(f"damaged after {count} members: ") and words in members.damage
    with pytest.raises(mk.MageKitError, match=r"image files cannot be read: .*damaged after"):
        opened(tmp_path / "a.tar")
    assert len(opened(tmp_path / "a.tar", max_broken=1.0)) == 2
    if count == 2:  # the same at the very start
        (tmp_path / "b.tar").write_bytes(rest)
        with pytest.raises(mk.MageKitError, match=r"b\.tar', must be a tar file, neither compressed nor damaged"):
            read_members(tmp_path / "b.tar")


SOUND: dict[str, tuple[bytes, list[str], list[str]]] = {
    "three thousand long names in a row": (
        b"".join(member(b"L", b"%d.png\0" % n, b"L") for n in range(3000)) + AFTER, ["0.png"], []),
    "a map of words": (member(b"x", record(b"GNU.sparse.map", b"a,b"), b"x") + AFTER, [], ["2.png"]),
    "a map without a line": (
        member(b"x", record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0"), b"x") + AFTER,
        [], ["2.png"]),
    "a megabyte of digits in a comment": (member(b"x", LONG, b"x") + AFTER, ["2.png"], []),
    "many global headers": (
        b"".join(member(b"g", record(b"w%d" % n, b"x" * 5000), b"g") for n in range(2000)) + AFTER, ["2.png"], []),
    "a link that is no link's": (member(b"2.png", b"", b"2", at157=b"../../../etc/passwd"), [], ["2.png"]),
    "a map in blocks": (
        header(b"s.png", 512, b"S", at482=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 2000 + bytes(1024) + AFTER,
        ["2.png"], ["s.png"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_what_is_odd_and_sound_is_listed(case: str, tmp_path: Path) -> None:
    rest, names, passed_over = SOUND[case]
    members = read(tmp_path, FIRST + rest)
    assert not members.damage and [each.name for each in members.files[2:]] == names
    assert [name for name, _ in members.passed_over] == passed_over
    assert "link" in case or all(reason == SPARSE for _, reason in members.passed_over)


def test_links_are_kept_as_plain_values(tmp_path: Path) -> None:
    links = b"".join(member(b"%d.jpg" % n, b"", b"2", at157=b"0.png") for n in range(20_000))
    members = read(tmp_path, FIRST + links + AFTER)
    assert len(members.files) == 20_003 and members.files[2].offset == members.files[0].offset == 512


def test_members_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MOST", 2)
    (tmp_path / "a.tar").write_bytes(FIRST + bytes(1024))
    assert read_members(tmp_path / "a.tar").total == 2
    (tmp_path / "a.tar").write_bytes(FIRST + AFTER)
    with pytest.raises(mk.MageKitError, match=r"a\.tar', holds over 2 members: split it into several tar files"):
        read_members(tmp_path / "a.tar")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_of_sound_files_python_says_the_same(form: int, tmp_path: Path) -> None:
    kinds = (tarfile.REGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.AREGTYPE)
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "all"}) as tar:
        for count, name in enumerate(("a", "ü/b.png", "\udcff.png", "dd/" * 40 + "c.png", "e.f/" * 30 + "g.tar.png")):
            info = tarfile.TarInfo(name)
            info.type, info.size = kinds[count % 4], 300 * count * (count != 2)
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    members = read_members(tmp_path / "a.tar")
    assert [(each.name, each.offset, each.size) for each in members.files] == expected and not members.damage
    assert len(expected) == 4 and members.counts == {"folders": 1}
