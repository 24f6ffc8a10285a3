"""Packets that are held until the end of a step: each is sent once, in order, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from happy_light.clients.packets import Packet
from happy_light.live.cork import Cork
from happy_light.live.websocket import WebSocketTransport
from happy_light.server import Server
from tests.client import World
from tests.raw_connections import FrameWebsocket
from tests.stores import Held

Inside = Callable[..., Awaitable[Server]]


async def test_what_is_held_is_released_after_the_step_and_once() -> None:
    cork, flushed = Cork(), []
    cork.hold()
    cork.hold()
    assert cork.holds
    cork.add(lambda: flushed.append("a"))
    cork.add(lambda: flushed.append("b"))
    assert flushed == []
    await asyncio.sleep(0)
    assert (flushed, cork.holds) == (["a", "b"], False)
    await asyncio.sleep(0)
    assert flushed == ["a", "b"]


async def test_what_is_sent_by_a_flush_may_be_held_again() -> None:
    cork, flushed = Cork(), []

    def again() -> None:
        flushed.append(cork.holds)
        cork.hold()
        cork.add(lambda: flushed.append(cork.holds))

    cork.hold()
    cork.add(again)
    await asyncio.sleep(0)
    assert flushed == [False]
    await asyncio.sleep(0)
    assert flushed == [False, False]


async def test_updates_and_acks_keep_their_order(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    device = await alice.socket()
    cli = await alice.socket(session=session)
    acks = await asyncio.gather(*(cli.call("message", {"sid": session, "message": str(i)}) for i in range(40)))
    assert [ack["seq"] for ack in acks] == list(range(1, 41))
    frames = [frame for _, frame in await device.heard("update")]
    assert [frame["body"]["message"]["content"]["c"] for frame in frames] == [str(i) for i in range(40)]
    assert [frame["seq"] for frame in frames] == list(range(frames[0]["seq"], frames[0]["seq"] + 40))


async def test_what_is_committed_together_is_written_together(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await inside()
    most: dict[str, int] = {}
    flush = WebSocketTransport._flush

    def count(self: WebSocketTransport) -> None:
        most[self.id] = max(most.get(self.id, 0), len(self._held or ()))
        flush(self)

    monkeypatch.setattr(WebSocketTransport, "_flush", count)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        device, cli = await alice.socket(), await alice.socket(session=session)
        held = await Held(server.database).started()
        calls = [asyncio.create_task(cli.call("message", {"sid": session, "message": str(i)})) for i in range(8)]
        async with asyncio.timeout(10):
            while server.database.waiting < 8:
                await asyncio.sleep(0.005)
        await held.release()
        assert all(ack["ok"] for ack in await asyncio.gather(*calls))
        assert len(await device.heard("update")) == 8
    assert len(most) == 2 and min(most.values()) > 1, "the updates for the one, the acks for the other"


async def test_what_is_held_is_sent_before_the_connection_is_closed(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        raw = await (await FrameWebsocket.open(server.url)).enter((await world.account()).token)
        connections = server.app.live.connections
        (connection,) = connections.by_id.values()
        connections.cork.hold()
        connection.send(Packet(b'42["x"]'))
        connection.end("server disconnect")
        assert await raw.text() == '42["x"]'
        assert await raw.ends_with() == 1000
