"""Frames and packets that lead to no event: what a client may send of them in a second, and what a stranger may."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from happy_light.live.transport import UNAUTHENTICATED_MAX
from happy_light.live.websocket import CONTROLS_MAX, MESSAGES_AT_ONCE
from happy_light.server import Server
from tests.client import World
from tests.raw_connections import FrameWebsocket

FLOOD = 20 * CONTROLS_MAX


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


async def last_answers(raw: FrameWebsocket) -> None:
    """Read up to the ack of event 9."""
    while (frame := await raw.frame()) is not None:
        if frame.data == b"439[{}]":
            return
    raise EOFError


Inside = Callable[[], Awaitable[Server]]

COUNT = 5 * CONTROLS_MAX // 2
FLOODS = {
    "pings": masked(Opcode.PING, b"x") * COUNT,
    "pongs": masked(Opcode.PONG, b"x") * COUNT,
    "pongs of Engine.IO": masked(Opcode.TEXT, b"3") * COUNT,
    "upgrades of Engine.IO": masked(Opcode.TEXT, b"5") * COUNT,
    "packets of other namespaces": masked(Opcode.TEXT, b"43/x,1[]") * COUNT,
    "small fragments": masked(Opcode.TEXT, b"", False)
    + masked(Opcode.CONT, b"", False) * COUNT
    + masked(Opcode.CONT, b'42["ping"]'),
}


async def test_every_flood_waits_in_the_network_and_loses_nothing(world: World) -> None:
    """Two full counts may pass at once, and every further one takes a second."""
    alice = await world.account()

    async def seconds(flood: bytes) -> float:
        raw = await (await FrameWebsocket.open(world.url)).enter(alice.token)
        began = time.monotonic()
        raw.writer.write(flood + masked(Opcode.TEXT, b'429["ping"]'))
        await last_answers(raw)
        raw.writer.close()
        return time.monotonic() - began

    took = dict(zip(FLOODS, await asyncio.gather(*map(seconds, FLOODS.values())), strict=True))
    assert {what for what, time in took.items() if time < 0.9} == set()


async def test_pongs_are_bounded_and_others_are_answered_meanwhile(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    raw = await (await FrameWebsocket.open(world.url)).enter(alice.token)
    ui = await bob.socket()
    raw.writer.write(masked(Opcode.PING, b"x") * FLOOD)
    pongs = 0
    began = time.monotonic()
    while pongs <= 2 * CONTROLS_MAX:
        assert await ui.call("ping") == {}
        frame = await raw.frame()
        assert frame is not None
        pongs += frame.opcode is Opcode.PONG
    assert time.monotonic() - began > 0.9  # the third count came no sooner than a second after the first
    raw.writer.transport.abort()  # while the server reads nothing from it
    assert await ui.call("ping") == {}


async def test_what_is_not_read_yet_is_not_in_memory(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        ui = await bob.socket()
        known = set(server.app.live.connections.by_id)
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        (id,) = set(server.app.live.connections.by_id) - known
        connection = server.app.live.connections.by_id[id]
        raw.writer.write(masked(Opcode.PONG, b"x" * 125) * 100_000)  # 13 MB
        most = 0
        for _ in range(200):
            assert await ui.call("ping") == {}
            most = max(most, connection.incomplete)
        assert 0 < most < 1_000_000 and not connection.closed
        raw.writer.transport.abort()


async def test_who_floods_hears_what_is_sent_to_it_and_may_close(world: World) -> None:
    alice = await world.account()
    raw = await (await FrameWebsocket.open(world.url)).enter(alice.token)
    raw.writer.write(masked(Opcode.PONG, b"x") * 2 * CONTROLS_MAX + masked(Opcode.CLOSE, (1000).to_bytes(2, "big")))
    await alice.session()
    assert '["update",' in await raw.text()
    assert await raw.ends_with() == 1000


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.CONT])
async def test_a_stranger_is_closed_after_64_kb_of_them(world: World, opcode: Opcode) -> None:
    raw = await FrameWebsocket.open(world.url)
    if opcode is Opcode.CONT:
        raw.send(Opcode.TEXT, b"4", fin=False)
    for _ in range(UNAUTHENTICATED_MAX // 16 + (opcode is not Opcode.CONT)):  # each counts as 16 bytes
        raw.send(opcode, b"", fin=opcode is not Opcode.CONT)
    assert await raw.ends_with() == 1000


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_events_are_handled_in_turns_in_their_order(inside: Inside, transport: str) -> None:
    """Many events that arrive at once take several steps of the event loop."""
    server = await inside()
    async with World(server.url) as world:
        token = (await world.account()).token
        dispatcher, handled = server.app.live.connections.dispatcher, 0
        dispatch = dispatcher.dispatch

        def count_and_dispatch(*args: Any) -> None:
            nonlocal handled
            handled += 1
            dispatch(*args)

        dispatcher.dispatch = count_and_dispatch  # type: ignore[method-assign, assignment]
        events = [f'42{i}["ping"]' for i in range(10 * MESSAGES_AT_ONCE)]
        answers = asyncio.create_task(answers_of(world, token, transport, events))
        most = 0
        async with asyncio.timeout(10):
            while (before := handled) < len(events):
                await asyncio.sleep(0)
                most = max(most, handled - before)
        assert 1 < most <= MESSAGES_AT_ONCE
        assert await answers == [f"43{i}[{{}}]" for i in range(len(events))]


async def answers_of(world: World, token: str, transport: str, events: list[str]) -> list[str]:
    """Connect, send the events at once, and return as many packets that answer them."""
    if transport == "websocket":
        raw = await (await FrameWebsocket.open(world.url)).enter(token)
        raw.writer.write(b"".join(masked(Opcode.TEXT, event.encode()) for event in events))
        answers = [await raw.text() for _ in events]
        raw.writer.close()
        return answers
    path = "/v1/updates/?EIO=4&transport=polling"
    path += "&sid=" + (await world.http.get(path)).text.split('"sid":"')[1].split('"')[0]
    await world.http.post(path, content="40" + json.dumps({"token": token}))
    assert (await world.http.get(path)).text.startswith("40{")
    await world.http.post(path, content="\x1e".join(events))
    return (await world.http.get(path)).text.split("\x1e")
