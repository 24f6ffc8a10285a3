"""What a connection holds is let go of when it ends, at once: no cycle waits for the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from websockets.frames import Opcode

from happy_light.live.transport import Transport
from happy_light.server import Server
from tests.client import Account, World
from tests.raw_connections import Connection, FrameWebsocket, PacketWebsocket

pytestmark = pytest.mark.slow  # looks at all objects, again and again

LARGE = 8_000_000  # bytes
POLLING = "/v1/updates/?EIO=4&transport=polling"


@pytest.fixture
def traced() -> Iterator[None]:
    """Python's allocations are counted, and the garbage collector does not run."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.fixture
async def server(inside: Callable[[], Awaitable[Server]], traced: None) -> AsyncIterator[Server]:
    yield await inside()


def only(server: Server) -> Transport:
    (transport,) = server.app.live.connections.by_id.values()
    return transport


async def released(server: Server, transport: Any, before: int) -> None:
    """Wait until the transport, its client and all large buffers are gone."""
    async with asyncio.timeout(10):
        while server.app.live.connections or transport() is not None:
            await asyncio.sleep(0.01)
        while tracemalloc.get_traced_memory()[0] > before + LARGE // 4:
            await asyncio.sleep(0.01)


async def arrive(server: Server, least: int, before: int) -> None:
    """Wait until the server holds so many bytes."""
    async with asyncio.timeout(10):
        while tracemalloc.get_traced_memory()[0] < before + least:
            await asyncio.sleep(0.01)


async def signed_in(server: Server) -> tuple[World, Account]:
    world = World(server.url)
    return world, await world.account()


async def upgraded(url: str, auth: dict[str, Any] | None) -> tuple[aiohttp.ClientSession, PacketWebsocket]:
    """Return a websocket that began with polling, connected before it was upgraded."""
    http = aiohttp.ClientSession()
    sid = json.loads((await (await http.get(url + POLLING)).text())[1:])["sid"]
    if auth is not None:
        await http.post(f"{url}{POLLING}&sid={sid}", data=f"40{json.dumps(auth)}")
        assert (await (await http.get(f"{url}{POLLING}&sid={sid}")).text()).startswith("40{")
    wire = await PacketWebsocket.open(url, sid)
    await wire.send("2probe")
    assert await wire.packet() == "3probe"
    await wire.send("5")
    return http, wire


async def test_half_a_frame_of_a_websocket(server: Server) -> None:
    world, alice = await signed_in(server)
    async with world:
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        transport = weakref.ref(only(server))
        before = tracemalloc.get_traced_memory()[0]
        raw.writer.write(b"\x81\xff" + (90_000_000).to_bytes(8, "big") + b"mask" + bytes(LARGE))
        await raw.writer.drain()
        await arrive(server, LARGE, before)
        raw.writer.close()
        await released(server, transport, before)


async def test_fragments_and_attachments_of_a_websocket(server: Server) -> None:
    world, alice = await signed_in(server)
    async with world:
        for binary in (False, True):
            raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
            transport = weakref.ref(only(server))
            before = tracemalloc.get_traced_memory()[0]
            if binary:
                raw.say('452-["message",{"_placeholder":true,"num":0}]')
                raw.send(Opcode.BINARY, bytes(LARGE))
            else:
                raw.send(Opcode.TEXT, b"4" + bytes(LARGE), fin=False)
            await raw.writer.drain()
            await arrive(server, LARGE, before)
            raw.writer.close()
            await released(server, transport, before)


@pytest.mark.parametrize("connected", [True, False])
async def test_half_a_frame_after_an_upgrade(server: Server, connected: bool) -> None:
    world, alice = await signed_in(server)
    async with world:
        http, wire = await upgraded(server.url, {"token": alice.token} if connected else None)
        async with http:
            transport = weakref.ref(only(server))
            if connected:
                await wire.send('421["ping"]')
                assert await wire.packet() == "431[{}]"
            before = tracemalloc.get_traced_memory()[0]
            network = wire.socket._writer.transport
            network.write(b"\x81\xff" + (90_000_000).to_bytes(8, "big") + b"mask" + bytes(LARGE))
            if connected:
                await arrive(server, LARGE, before)
                network.abort()
            await released(server, transport, before + LARGE)  # its own writer still has what was refused
            await wire.http.close()


async def test_a_polling_body_and_packets_that_nobody_asked_for(server: Server) -> None:
    world, alice = await signed_in(server)
    async with world, aiohttp.ClientSession() as http:
        session = (await alice.session())["id"]
        sid = json.loads((await (await http.get(server.url + POLLING)).text())[1:])["sid"]
        url = f"{server.url}{POLLING}&sid={sid}"
        await http.post(url, data=f"40{json.dumps({'token': alice.token})}")
        transport = weakref.ref(only(server))
        before = tracemalloc.get_traced_memory()[0]
        body = {"messages": [{"content": "x" * LARGE, "localId": "1"}]}
        headers = {"Authorization": f"Bearer {alice.token}"}
        messages = f"{server.url}/v3/sessions/{session}/messages"
        assert (await http.post(messages, json=body, headers=headers)).status == 200
        del body
        await arrive(server, LARGE, before)
        async with await Connection.open(server.url) as raw:
            path = url.removeprefix(server.url)
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE * 2}\r\n\r\n"
            await raw.send(head.encode() + bytes(LARGE))
            await arrive(server, 2 * LARGE, before)
            await http.post(url, data="1")
        await released(server, transport, before)


async def ends(raw: FrameWebsocket) -> None:
    """Wait for the end of the connection, which may be a reset: what is unread is not waited for."""
    with contextlib.suppress(ConnectionResetError):
        await raw.ends_with()


async def test_strangers_are_refused_before_they_have_sent_much(server: Server) -> None:
    """On every transport they may send 64 KB before their CONNECT is accepted."""
    async with aiohttp.ClientSession() as http:
        raw = await FrameWebsocket.open(server.url)
        raw.send(Opcode.TEXT, b"4" + bytes(65_536))
        await ends(raw)
        raw = await FrameWebsocket.open(server.url)
        for _ in range(5):
            raw.say("40" + json.dumps({"token": "x" * 20_000}))
        await ends(raw)
        session, wire = await upgraded(server.url, None)
        async with session:
            await wire.send("4" + "x" * 65_536)
            assert await wire.ended()
            await wire.http.close()
        sid = json.loads((await (await http.get(server.url + POLLING)).text())[1:])["sid"]
        assert (await http.post(f"{server.url}{POLLING}&sid={sid}", data=bytes(65_537))).status == 413
        assert not server.app.live.connections
