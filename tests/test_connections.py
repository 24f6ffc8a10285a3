"""Connections of the HTTP edge: how long they idle, how they end, and in how many pieces an answer leaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from happy_light import config
from happy_light.stack import hypercorn_server

BIG = 16 * 1024 * 1024  # bytes; more than the buffers of the system hold


class App:
    """Answers `/` at once, `/slow` when it is told to, `/big` piece by piece."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/slow":
            self.asked.set()
            await self.go_on.wait()
        big = scope["path"] == "/big"
        headers = [(b"content-length", b"%d" % (BIG if big else 5))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while big and self.sent < BIG:
            self.sent += 65_536
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if big else b"hello"})


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def answered(self) -> bytes:
        async with asyncio.timeout(10):
            await self.reader.readuntil(b"\r\n\r\n")
            return await self.reader.readexactly(5)

    async def ended(self) -> bool:
        """Wait for the server to close."""
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


class Running:
    """An App behind the connections, on a real socket. `keep_alive` in seconds."""

    def __init__(self, keep_alive: int) -> None:
        self.app = App()
        self.stop = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.config = hypercorn_server.settings_of(config.load({}, {}))
        self.config.keep_alive_timeout = keep_alive
        self.config.bind = [f"fd://{listener.detach()}"]
        self.task = asyncio.create_task(hypercorn_server.serve(self.app, self.config, self._until))

    async def _until(self) -> None:
        await self.stop.wait()

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))


@contextlib.asynccontextmanager
async def running(keep_alive: int = 75) -> AsyncIterator[Running]:
    server = Running(keep_alive)
    try:
        yield server
    finally:
        server.stop.set()
        await asyncio.wait_for(server.task, 10)


async def test_connections_are_ours_and_an_answer_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = asyncio.StreamWriter.write

    def watched(self: asyncio.StreamWriter, data: bytes) -> None:
        written.append(data)
        write(self, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", watched)
    async with running() as server:
        client = await server.client()
        for _ in range(2):
            client.ask("/")
            assert await client.answered() == b"hello"
    answers = [data for data in written if data.startswith(b"HTTP/1.1 200")]
    assert len(answers) == 2
    assert all(data.endswith(b"\r\n\r\nhello") for data in answers)


async def test_a_connection_that_waits_too_long_is_closed() -> None:
    async with running(keep_alive=1) as server:
        never, once = await server.client(), await server.client()
        once.ask("/")
        assert await once.answered() == b"hello"
        assert await never.ended()
        assert await once.ended()


async def test_a_busy_connection_may_take_longer_than_an_idle_one() -> None:
    async with running(keep_alive=1) as server:
        busy, idle = await server.client(), await server.client()
        busy.ask("/slow")
        await server.app.asked.wait()
        assert await idle.ended()  # so the time is over
        server.app.go_on.set()
        assert await busy.answered() == b"hello"
        busy.ask("/")
        assert await busy.answered() == b"hello"


async def test_a_stop_ends_what_is_idle_at_once_and_lets_the_busy_finish() -> None:
    async with running() as server:
        busy, idle = await server.client(), await server.client()
        idle.ask("/")
        assert await idle.answered() == b"hello"
        busy.ask("/slow")
        await server.app.asked.wait()
        server.stop.set()
        assert await idle.ended()
        assert not server.task.done()
        server.app.go_on.set()
        assert await busy.answered() == b"hello"
        assert await busy.ended()


async def test_a_client_that_does_not_read_holds_its_answer_up_and_nobody_else() -> None:
    async with running() as server:
        slow, other = await server.client(), await server.client()
        cast(asyncio.Transport, slow.writer.transport).pause_reading()
        slow.ask("/big")
        other.ask("/")
        assert await other.answered() == b"hello"
        held = -1
        while held != server.app.sent:  # until it stands still
            held = server.app.sent
            for _ in range(20):
                other.ask("/")
                await other.answered()
        assert 0 < held < BIG
        cast(asyncio.Transport, slow.writer.transport).resume_reading()
        async with asyncio.timeout(20):
            await slow.reader.readuntil(b"\r\n\r\n")
            assert len(await slow.reader.readexactly(BIG)) == BIG


async def test_a_client_that_left_leaves_nothing_behind() -> None:
    async with running() as server:
        client = await server.client()
        client.ask("/")
        await client.answered()
        assert len(server.config.idle) == 1
        client.writer.close()
        async with asyncio.timeout(10):
            while server.config.idle or len(asyncio.all_tasks()) > 5:
                await asyncio.sleep(0.01)
