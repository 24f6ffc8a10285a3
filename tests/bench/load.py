"""Cheap clients for load: they do as little as they can, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import nacl.signing
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as Frames


class Http:
    """One keep-alive connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    @classmethod
    async def open(cls, url: str) -> Http:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=2**24), parts.netloc)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        token: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        """Return the body of a 200 or 304; raise RuntimeError for another status."""
        return (await self._request(method, path, body, token, headers))[1]

    async def tag(self, path: str, token: str) -> str | None:
        """Return the ETag of a GET; None if the answer has none."""
        head, _ = await self._request("GET", path, b"", token, {})
        for line in head.decode("latin-1").split("\r\n"):
            if line.lower().startswith("etag:"):
                return line[5:].strip()
        return None

    async def _request(
        self, method: str, path: str, body: bytes, token: str, headers: Mapping[str, str]
    ) -> tuple[bytes, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if token:
            head += f"Authorization: Bearer {token}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        for name, value in headers.items():
            head += f"{name}: {value}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        return await self._answer(f"{method} {path}")

    async def _answer(self, what: str) -> tuple[bytes, bytes]:
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 304"):
            return answer, b""
        content = await self._content(answer.lower())
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{what}: {answer[:40]!r} {content[:200]!r}")
        return answer, content

    async def put(self, path: str, body: bytes, token: str) -> None:
        """Send bytes; raise RuntimeError unless they are taken."""
        head = f"PUT {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {token}\r\n"
        head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        await self._answer(f"PUT {path}")

    async def _content(self, head: bytes) -> bytes:
        """Return the body that follows a head in lower case, which says its length, or is sent in chunks."""
        if b"content-length:" in head:
            return await self._reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        if b"transfer-encoding: chunked" not in head:
            raise RuntimeError(f"an answer without an end: {head!r}")
        content = b""
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            content += (await self._reader.readexactly(size + 2))[:-2]
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # a trailer
        return content

    def close(self) -> None:
        self._writer.close()


class Socket(asyncio.Protocol):
    """A Socket.IO client over a websocket: emits, acks, and a callback for what comes."""

    def __init__(self, url: str, auth: dict[str, Any], hear: Callable[[bytes], None], sid: str = "") -> None:
        self._parts = urlsplit(url)
        self._sid = sid  # of the connection by polling that this websocket takes over
        self._auth = auth
        self._hear = hear
        self._frames = Frames(Side.CLIENT, state=OPEN, max_size=None)
        self._head: bytes | None = b""
        self._acks: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, url: str, auth: dict[str, Any], hear: Callable[[bytes], None] = lambda _: None, sid: str = ""
    ) -> Socket:
        """Connect; with `sid`, take over the connection by polling that has this id."""
        socket = cls(url, auth, hear, sid)
        await asyncio.get_running_loop().create_connection(
            lambda: socket, socket._parts.hostname or "", socket._parts.port or 80
        )
        await asyncio.wait_for(socket.connected, 20)
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        sid = f"&sid={self._sid}" if self._sid else ""
        transport.write(
            f"GET /v1/updates/?EIO=4&transport=websocket{sid} HTTP/1.1\r\nHost: {self._parts.netloc}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data, self._head = self._head[end + 4 :], None
            if self._sid:
                self.say(b"2probe")
            if not data:
                return
        self._frames.receive_data(data)
        for frame in self._frames.events_received():
            assert isinstance(frame, Frame)
            self._packet(bytes(frame.data))

    def _packet(self, packet: bytes) -> None:
        kind = packet[:2]
        if kind == b"42":
            self._hear(packet)
        elif kind == b"43":
            end = packet.index(b"[")
            self._acks.pop(int(packet[2:end])).set_result(packet[end:])
        elif packet == b"2":
            self.say(b"3")
        elif packet == b"3probe":
            self.say(b"5")
            self.connected.set_result(None)
        elif kind[:1] == b"0":
            self.say(b"40" + json.dumps(self._auth).encode())
        elif kind == b"40":
            self.connected.set_result(None)
        elif kind == b"44":
            self.connected.set_exception(ConnectionError(packet.decode()))

    def say(self, packet: bytes) -> None:
        """Send one packet of the engine."""
        self._transport.write(Frame(Opcode.TEXT, packet).serialize(mask=True))

    def call(self, event: bytes) -> asyncio.Future[bytes]:
        """Emit `event` (the JSON array) with an ack."""
        self._next += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._acks[self._next] = future
        self.say(b"42%d" % self._next + event)
        return future

    def answer(self, packet: bytes, result: bytes) -> None:
        """Acknowledge an event that wants it."""
        self.say(b"43" + packet[2 : packet.index(b"[")] + result)

    def close(self) -> None:
        self._transport.close()


async def sign_in(url: str) -> str:
    """Return the token of a new account."""
    key, challenge = nacl.signing.SigningKey.generate(), os.urandom(32)
    http = await Http.open(url)
    body = {
        "publicKey": base64.b64encode(bytes(key.verify_key)).decode(),
        "challenge": base64.b64encode(challenge).decode(),
        "signature": base64.b64encode(key.sign(challenge).signature).decode(),
    }
    token: str = json.loads(await http.request("POST", "/v1/auth", json.dumps(body).encode()))["token"]
    http.close()
    return token


async def session(url: str, token: str, tag: str, metadata: str = "m") -> str:
    """Return the id of a session."""
    http = await Http.open(url)
    body = json.dumps({"tag": tag, "metadata": metadata}).encode()
    id: str = json.loads(await http.request("POST", "/v1/sessions", body, token))["session"]["id"]
    http.close()
    return id


async def open_by_polling(url: str, auth: dict[str, Any]) -> Socket:
    """Connect by polling, each request on a connection of its own, and change to a websocket, as browsers do."""
    path = "/v1/updates/?EIO=4&transport=polling"

    async def poll(method: str, body: bytes = b"") -> bytes:
        http = await Http.open(url)
        try:
            return await http.request(method, path, body)
        finally:
            http.close()

    sid: str = json.loads((await poll("GET"))[1:])["sid"]
    path += f"&sid={sid}"
    await poll("POST", b"40" + json.dumps(auth).encode())
    assert (await poll("GET")).startswith(b"40")
    return await Socket.open(url, auth, sid=sid)
