"""The page's gate: other names, other sites, large requests and hostile input are refused in a sentence."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.demo_page import gate
from mage_kit.demo_page.gate import Gate, check_picture, names_of
from mage_kit.demo_page.painting import LARGEST_SEED, Wish
from tests import build
from tests.demo_page.test_browser import served

LOCAL = names_of("127.0.0.1")


async def _reads_all(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        raise ConnectionError("gone")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


def ask(names: frozenset[str], headers: dict[str, str], body: list[bytes] | None = None) -> tuple[int, str]:
    """Return status and body of the answer to a request."""
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body or []]
    parts.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Gate(_reads_all, names)({"type": "http", "headers": encoded}, receive, send))
    return sent[0]["status"], sent[-1]["body"].decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "::1"])
def test_its_own_addresses_are_served(host: str) -> None:
    assert ask(LOCAL, {"Host": host}) == (200, "served")
    assert ask(LOCAL, {"Host": host, "Origin": f"http://{host}"})[0] in (200, 403 if host == "::1" else 200)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "10.0.0.1"]
)
def test_other_names_are_refused(host: str) -> None:
    """A site may point a name of its own at 127.0.0.1, and read the page through its visitor's browser."""
    status, words = ask(LOCAL, {"Host": host})
    assert status == 403 and "this page is served at other addresses" in json.loads(words)["error"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_requests_of_other_sites_are_refused(origin: str) -> None:
    assert ask(LOCAL, {"Host": "localhost", "Origin": origin})[0] == 403


def test_more_names_may_be_allowed() -> None:
    assert ask(names_of("127.0.0.1", ("lab.example",)), {"Host": "lab.example:80"})[0] == 200
    everywhere = names_of("0.0.0.0")
    assert ask(everywhere, {"Host": "192.168.1.7:7860"})[0] == 200
    assert ask(everywhere, {"Host": "evil.example"})[0] == 403


def test_large_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LARGEST_REQUEST", 1000)
    host = {"Host": "localhost"}
    assert ask(LOCAL, {**host, "Content-Length": "1001"})[0] == 413
    assert ask(LOCAL, {**host, "Content-Length": "many"})[0] == 413
    assert ask(LOCAL, {**host, "Content-Length": "10"}, [b"x" * 500, b"x" * 600])[0] == 413, "the header lied"
    assert ask(LOCAL, host, [b"x" * 500, b"x" * 500]) == (200, "served")


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(_reads_all, LOCAL)({"type": "websocket", "headers": [(b"host", b"evil.example")]}, None, send))
    assert sent[0]["type"] == "websocket.close" and sent[0]["code"] == 1008


def huge(width: int, height: int) -> bytes:
    """A small PNG file of many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(width // 8 + 1)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_pictures_are_looked_at_before_they_are_decoded(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.new("RGB", (300, 200)).save(good, format="PNG")
    assert check_picture(good) is None
    twelve = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, dtype=np.uint16)).save(twelve, format="PNG")
    with Image.open(io.BytesIO(check_picture(twelve, 4096) or b"")) as plain:
        assert plain.mode == "RGBA" and plain.getpixel((0, 0)) == (255, 255, 255, 255), "white, as its run reads it"
    pages = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pages, format="TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with pytest.raises(mk.MageKitError, match="several pages, must be one"):
        check_picture(pages)
    with pytest.raises(mk.MageKitError, match=r"picture: 13312 x 13312 pixels, must be at most 16,777,216"):
        check_picture(io.BytesIO(huge(13_312, 13_312)))
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(mk.MageKitError, match="a EPS file; read are"):
        check_picture(str(tmp_path / "page.png"))
    with pytest.raises(mk.MageKitError, match="picture"):
        check_picture(io.BytesIO(b"nothing"))


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        (0, "many", "steps: 'many', must be a whole number of at least 1"),
        (0, 10**9, "steps: 1000000000, must be at most 64"),
        (0, 2.5, "steps: 2.5, must be"),
        (1, float("nan"), "temperature: nan, must be a number between 0 and 20"),
        (2, None, "token temperature: None, must be"),
        (4, [1], r"variants: \[1\], must be a whole number"),
        (5, 2**64, "seed: 18446744073709551616, must be"),
    ],
)
def test_controls_outside_their_range_are_named(place: int, value: Any, rule: str) -> None:
    controls: list[Any] = [8, 4.5, 1.0, 1, 3, 0]
    assert Wish.of(controls) == Wish(8, 4.5, 1.0, 1, 3, 0)
    assert Wish.of([*controls[:5], LARGEST_SEED]).seed == LARGEST_SEED and Wish.of([*controls[:5], None]).seed == 0
    controls[place] = value
    with pytest.raises(ValueError, match=rule):
        Wish.of(controls)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = mk.save(build.mage(), tmp_path_factory.mktemp("served") / "model")
    with served(model) as url:
        yield url


def call(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, data=body or None, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def result(address: str, name: str, data: list[Any]) -> str:
    """Return what a call to the page's interface ends in."""
    body = json.dumps({"data": data}).encode()
    status, text = call(f"{address}/gradio_api/call/{name}", body, **{"Content-Type": "application/json"})
    if status != 200:
        return text
    return call(f"{address}/gradio_api/call/{name}/{json.loads(text)['event_id']}", b"")[1]


@pytest.mark.slow
def test_a_served_page_answers_hostile_calls_in_a_sentence(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(address, b"")[0] == 200
    assert call(address, b"", Host="evil.example")[0] == 403
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", "/gradio_api/upload", headers={"Content-Length": str(21 << 20)})
    answer = connection.getresponse()
    assert answer.status == 413 and b"must be at most 20,971,520" in answer.read()
    controls = [8, 4.5, 1.0, 1, 1, 0]
    nothing = {"background": None, "layers": [], "composite": None}
    assert "Draw on the picture first" in result(address, "inpaint", [nothing, *controls])
    assert "must be a whole number of at least 1" in result(address, "inpaint", [nothing, "many", *controls[1:]])
    assert "seed: 'x', must be a whole number" in result(address, "another", ["x"])
    away = "https://example.org/a.png"
    for drawing in (
        7, "x", [1], {"background": 3}, {**nothing, "background": {"path": "/etc/passwd"}},
        {**nothing, "background": {"path": away, "url": away}},
    ):  # fmt: skip
        words = result(address, "inpaint", [drawing, *controls])
        assert "Traceback" not in words and "error" in words, (drawing, words)
        assert "root:" not in words
    assert call(address, b"")[0] == 200, "it is still there"
