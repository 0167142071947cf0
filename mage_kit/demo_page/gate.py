"""What stands between the page and who calls it: its own addresses alone, small requests, errors in a sentence.

A page of this machine is within reach of every site that its user visits: a site may point a name of its own at
127.0.0.1. So a request must be for an address that the page is served at, and come from there.
"""

from __future__ import annotations

import io
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.images.deep_pictures import look
from mage_kit.images.image_files import load_image, open_image

LARGEST_REQUEST = 20 << 20  # bytes
LARGEST_PICTURE = 1 << 24  # pixels: 64 MiB decoded
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Gate:
    """ASGI middleware that refuses other hosts' names, other sites' requests, and large ones.

    Args:
        app: What is guarded.
        names: Host names that the page is served at, beside this machine's own addresses.
    """

    def __init__(self, app: Application, names: frozenset[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if words := self._refusal(headers):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": words[1]})
            else:
                await _answer(send, *words)
            return
        await _Counted(self.app, receive, send).run(scope)

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = _name(headers.get("host", ""))
        if not self._is_own(host):
            return 403, f"host: '{host[:100]}', this page is served at other addresses; --allow-host names more"
        origin = headers.get("origin")
        if origin is not None and (origin == "null" or not self._is_own(_name(origin.partition("//")[2]))):
            return 403, f"origin: '{origin[:100]}', requests of other sites are refused"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            return 413, f"request: {length[:20]} bytes, must be at most {LARGEST_REQUEST:,}"
        return None

    def _is_own(self, host: str) -> bool:
        return host in _LOCAL or host in self.names or ("*" in self.names and _is_address(host))


class _Counted:
    """A request whose body is counted as it comes: its header may say nothing, or lie."""

    def __init__(self, app: Application, receive: Receive, send: Send) -> None:
        self.app, self._receive, self._send = app, receive, send
        self.size, self.is_answered = 0, False

    async def run(self, scope: Message) -> None:
        try:
            await self.app(scope, self.receive, self.send)
        except Exception:  # whatever the page makes of a request that was cut off
            if self.size <= LARGEST_REQUEST:
                raise
        if self.size > LARGEST_REQUEST and not self.is_answered:
            await _answer(self._send, 413, f"request: must be at most {LARGEST_REQUEST:,} bytes")

    async def receive(self) -> Message:
        message = await self._receive()
        self.size += len(message.get("body", b""))
        return message if self.size <= LARGEST_REQUEST else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.size <= LARGEST_REQUEST or self.is_answered:
            self.is_answered = True
            await self._send(message)


def names_of(host: str, others: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the names that a page may be asked for by.

    Args:
        host: Address that it listens at. At all addresses any numeric one is its own: only names can be pointed at it
            by others.
        others: More names.
    """
    everywhere = host in ("0.0.0.0", "::", "")  # compared, not bound
    own = {"*", socket.gethostname().lower()} if everywhere else {host.lower()}
    return frozenset(own | {name.lower() for name in others})


def check_picture(file: Any, levels: int | None = None) -> bytes | None:
    """Make sure that what was sent is one picture of a known format and of bounded size, before it is decoded.

    Args:
        file: Path, or open file.
        levels: Of a picture of more than eight bits, from black to white; None for those of its type.

    Returns:
        The picture as a PNG file of eight bits where it may be stored otherwise; None where it can be read as it is.

    Raises:
        MageKitError: If it is not.
    """
    name = "picture"
    with open_image(Path(file) if isinstance(file, str) else file, name) as image:
        width, height = image.size
        if width * height > LARGEST_PICTURE:
            raise MageKitError(f"{name}: {width} x {height} pixels, must be at most {LARGEST_PICTURE:,}")
        if image.format not in ("TIFF", "JPEG2000") and look(image)[0] is None:
            return None
        content = io.BytesIO()
        load_image(image, name, 4, levels=levels).save(content, format="PNG")
        return content.getvalue()


def paths_in(value: Any) -> Iterator[str]:
    """Yield every "path" of JSON values: what the page is to open. A "url" beside it is the page's own."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        yield value["path"]
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from paths_in(part)


def _name(address: str) -> str:
    """The host of HOST, HOST:PORT or [HOST]:PORT."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    return (address if address.count(":") > 1 else address.partition(":")[0]).lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"error": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
