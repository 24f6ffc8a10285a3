"""Below the clients: HTTP bytes over a connection, and Engine.IO packets over a websocket or polling."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp


class Answer:
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

    async def answer(self, head: bool = False, timeout: float = 20) -> Answer:
        """The next answer. `head`: it has no body. Raises TimeoutError, EOFError."""
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
            return Answer(int(start.split()[1]), headers, body)

    async def request(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        """Sends a whole request with exactly this path. -> its answer."""
        given = {"Host": "x", **(headers or {})}
        if body:
            given["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        await self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        return await self.answer(head=method == "HEAD")

    async def ended(self, timeout: float = 20) -> bool:
        """Waits for the server to close the connection; False if it does not."""
        try:
            async with asyncio.timeout(timeout):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


class Wire:
    """An Engine.IO websocket, packet by packet."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.http = http
        self.socket = socket

    @classmethod
    async def open(cls, url: str, sid: str | None = None, path: str = "/v1/updates/") -> Wire:
        """Connects and, without `sid`, takes the OPEN packet."""
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

    async def __aenter__(self) -> Wire:
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
        """The next packet; pings are answered. Raises EOFError when the server closed."""
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
        """Sends CONNECT. -> the packet that answers it."""
        await self.send(f"40{namespace}{json.dumps(auth)}")
        return await self.packet()

    async def ended(self, timeout: float = 20) -> bool:
        """Waits for the server to close; False if it does not."""
        try:
            while True:
                await self.packet(timeout)
        except EOFError:
            return True
        except TimeoutError:
            return False
