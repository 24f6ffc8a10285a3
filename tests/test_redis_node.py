"""A connection to Redis that breaks in the middle of something: who waits is told, and nothing goes on in silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from happy_light.cluster.redis_node import RedisNode

pytest_plugins = ["tests.service_fixtures"]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every command with OK; end the connection at the command LEAVE."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words == [b"LEAVE"]:
                break
            writer.write(b"+PONG\r\n" if words == [b"PING"] else b"+OK\r\n")
    writer.close()


@contextlib.asynccontextmanager
async def opened(url: str, lost: asyncio.Future[Exception]) -> AsyncIterator[RedisNode]:
    """Connect a node, whose loss is the result of `lost`."""

    def fail(payload: bytes) -> None:
        raise LookupError(f"a fault of this program: {payload!r}")

    node = RedisNode(url, False, fail, lost.set_result)
    await node.open()
    try:
        yield node
    finally:
        await node.close()


async def test_who_waits_for_several_replies_is_told_when_only_some_came() -> None:
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(f"redis://127.0.0.1:{port}", lost) as node:
        assert await node.ask(("SET", "a", "b"), ("SET", "c", "d")) == [b"OK", b"OK"]
        assert await asyncio.wait_for(node.ask(("SET", "a", "b"), ("LEAVE",)), 20) is None
        assert isinstance(await asyncio.wait_for(lost, 20), redis.exceptions.ConnectionError)
        assert await node.ask(("SET", "a", "b")) is None


async def test_a_connection_that_has_ended_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis connects again when it is told to write, also between the end of a connection and the error of its reader.

    The new connection would have no subscriptions, and its replies would be taken for those of the old one.
    """
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    connections: list[asyncio.StreamWriter] = []
    asked: list[asyncio.Future[Any]] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answer(reader, writer)

    disconnect = redis.asyncio.Connection.disconnect

    async def disconnect_and_write(self: redis.asyncio.Connection, *args: Any, **kwargs: Any) -> None:
        await disconnect(self, *args, **kwargs)
        if not asked:
            asked.append(node.ask(("SET", "a", "b")))
            await asyncio.wait(asked, timeout=2)

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(f"redis://127.0.0.1:{port}", lost) as node:
        monkeypatch.setattr(redis.asyncio.Connection, "disconnect", disconnect_and_write)
        assert await asyncio.wait_for(node.ask(("LEAVE",)), 20) is None
        assert isinstance(await asyncio.wait_for(lost, 20), redis.exceptions.ConnectionError | ConnectionError)
        assert await asked[0] is None
        assert len(connections) == 2


async def test_a_fault_in_what_receives_ends_the_connection_and_is_logged(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    async with opened(redis_url, lost) as node, redis.asyncio.from_url(redis_url) as other:
        assert await node.subscribe("channel")
        await other.publish("channel", "x")
        assert isinstance(await asyncio.wait_for(lost, 20), LookupError)
        assert not await node.subscribe("another")
    assert "a task of the connection failed" in caplog.text
