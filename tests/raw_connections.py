"""Below the clients: HTTP bytes over a connection, Engine.IO packets over a websocket, and its frames by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as Frames


class HttpAnswer:
    """An HTTP answer as it came. `closed`: the server ended the connection behind it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One TCP connection to the server; what is sent is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.writer.close()
        else:
            self.writer.transport.abort()  # nobody may ever read what is still to be sent
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, head: bool = False, timeout: float = 20) -> HttpAnswer:
        """Return the next answer. `head`: it has no body. Raises TimeoutError, EOFError."""
        async with asyncio.timeout(timeout):
            start, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if head:
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readline()
                await self.reader.readline()
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return HttpAnswer(int(start.split()[1]), headers, body)

    async def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> HttpAnswer:
        """Send a whole request with exactly this path and return its answer."""
        given = {"Host": "x", **(headers or {})}
        if body:
            given["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        await self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        return await self.answer(head=method == "HEAD")

    async def ended(self, timeout: float = 20) -> bool:
        """Wait for the server to close the connection; False if it does not."""
        try:
            async with asyncio.timeout(timeout):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


class PacketWebsocket:
    """An Engine.IO websocket, packet by packet."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.http = http
        self.socket = socket

    @classmethod
    async def open(cls, url: str, sid: str | None = None, path: str = "/v1/updates/") -> PacketWebsocket:
        """Connect and, without `sid`, take the OPEN packet."""
        http = aiohttp.ClientSession()
        try:
            query = f"?EIO=4&transport=websocket{f'&sid={sid}' if sid else ''}"
            wire = cls(http, await http.ws_connect(url + path + query, max_msg_size=0))
            if sid is None:
                assert (await wire.packet()).startswith("0{")
        except BaseException:
            await http.close()
            raise
        return wire

    async def __aenter__(self) -> PacketWebsocket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()
        await self.http.close()

    async def send(self, packet: str | bytes) -> None:
        if isinstance(packet, str):
            await self.socket.send_str(packet)
        else:
            await self.socket.send_bytes(packet)

    async def packet(self, timeout: float = 20) -> str:
        """Return the next packet; pings are answered. Raises EOFError when the server closed."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.socket.receive()
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING,
                                    aiohttp.WSMsgType.ERROR):  # fmt: skip
                    raise EOFError
                if message.data == "2":
                    await self.send("3")
                    continue
                return str(message.data)

    async def connect(self, auth: Any, namespace: str = "") -> str:
        """Send CONNECT and return the packet that answers it."""
        await self.send(f"40{namespace}{json.dumps(auth)}")
        return await self.packet()

    async def ended(self, timeout: float = 20) -> bool:
        """Wait for the server to close; False if it does not."""
        try:
            while True:
                await self.packet(timeout)
        except EOFError:
            return True
        except TimeoutError:
            return False


class FrameWebsocket:
    """A websocket by hand: any bytes may be sent, frames are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = Frames(Side.CLIENT, state=OPEN, max_size=None)
        self.received: list[Frame] = []
        self.head = b""

    @classmethod
    async def open(cls, url: str, **tls: Any) -> FrameWebsocket:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, **tls)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /v1/updates/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        raw = cls(reader, writer)
        raw.head = head
        assert (await raw.text())[0] == "0"
        return raw

    def send(self, opcode: Opcode, data: bytes, fin: bool = True) -> None:
        """Any frame, one that may not be too: a ping of 200 bytes."""
        framed = bytearray(Frame(Opcode.BINARY, data, fin).serialize(mask=True))
        framed[0] = framed[0] & 0xF0 | opcode
        self.writer.write(framed)

    def say(self, text: str) -> None:
        self.send(Opcode.TEXT, text.encode())

    async def frame(self) -> Frame | None:
        """Return the next frame; None at the end of the connection."""
        async with asyncio.timeout(10):
            while not self.received:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self.frames.receive_data(data)
                self.received.extend(event for event in self.frames.events_received() if isinstance(event, Frame))
        return self.received.pop(0)

    async def text(self) -> str:
        frame = await self.frame()
        assert frame is not None
        assert frame.opcode is Opcode.TEXT
        return bytes(frame.data).decode()

    async def enter(self, token: str, **auth: Any) -> FrameWebsocket:
        """CONNECT, confirmed."""
        self.say("40" + json.dumps({"token": token, **auth}))
        assert (await self.text()).startswith("40{")
        return self

    async def ends_with(self) -> int | None:
        """Read to the end and return the close code that the server sent."""
        code = None
        while (frame := await self.frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                code = Close.parse(frame.data).code
        return code
