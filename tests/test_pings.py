"""Pings: who answers them stays, who does not is given up, and what has ended leaves nothing in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from happy_light.live.transport import Transport
from happy_light.testing import run_server
from tests.client import Account, World
from tests.raw_connections import PacketWebsocket

INTERVAL = 0.05  # s
TIMEOUT = 0.4  # s


@pytest.fixture
async def quick() -> AsyncIterator[World]:
    """Return a server in this process that pings often and has little patience."""
    async with run_server() as server, World(server.url) as world:
        connections = server.server.app.live.connections
        connections.ping_intervals.seconds = INTERVAL
        connections.ping_timeouts.seconds = TIMEOUT
        yield world


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whatever is forgotten has no cycle that needs the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.01)


async def raw_text(wire: PacketWebsocket) -> str | None:
    """Return the next packet, a ping too; None at the end."""
    async with asyncio.timeout(10):
        message = await wire.socket.receive()
    return str(message.data) if message.type is aiohttp.WSMsgType.TEXT else None


def transports() -> int:
    return sum(isinstance(one, Transport) for one in gc.get_objects())


async def test_a_client_that_does_not_answer_is_given_up(quick: World) -> None:
    alice = await quick.account()
    ui = await alice.socket()
    async with await PacketWebsocket.open(quick.url) as wire:
        await wire.send(f'40{{"token":"{alice.token}","clientType":"machine-scoped","machineId":"m"}}')
        seen = [packet async for packet in packets(wire)]
    assert [packet for packet in seen if not packet.startswith("40")] == ["2"]  # and then the end
    assert await ui.call("ping") == {}  # who answers is still here


async def packets(wire: PacketWebsocket) -> AsyncIterator[str]:
    while (packet := await raw_text(wire)) is not None:
        yield packet


async def test_a_client_that_answers_stays_for_longer_than_the_timeout(quick: World) -> None:
    alice = await quick.account()
    loop = asyncio.get_running_loop()
    async with await PacketWebsocket.open(quick.url) as wire:
        assert (await wire.connect({"token": alice.token})).startswith("40")
        pings, end = 0, loop.time() + 3 * TIMEOUT
        while loop.time() < end:
            assert await raw_text(wire) == "2"
            pings += 1
            await wire.send("3")
        assert pings >= 5
        await wire.send('420["ping"]')
        assert await wire.packet() == "430[{}]"


async def test_a_client_that_stopped_polling_is_given_up(quick: World) -> None:
    alice = await quick.account()
    phone = await alice.socket(transports=("polling",))
    path = "/v1/updates/?EIO=4&transport=polling"
    opened = (await quick.http.get(path)).text
    sid = opened.split('"sid":"')[1].split('"')[0]
    await quick.http.post(f"{path}&sid={sid}", content=f'40{{"token":"{alice.token}"}}')
    assert "40{" in (await quick.http.get(f"{path}&sid={sid}")).text
    async with asyncio.timeout(10):  # nobody asks any more until it is given up
        await asyncio.sleep(INTERVAL + 2 * TIMEOUT)
    assert (await quick.http.get(f"{path}&sid={sid}")).status_code == 400
    assert await phone.call("ping") == {}


async def test_what_has_ended_is_forgotten_at_once(no_collector: None) -> None:
    async with run_server() as server, World(server.url) as world:  # with the intervals of every day
        alice = await world.account()
        ui = await alice.socket()
        before = transports()
        await asyncio.gather(*(come_and_go(alice) for _ in range(20)))
        await until(lambda: transports() == before)
        assert await ui.call("ping") == {}


async def come_and_go(alice: Account) -> None:
    async with await PacketWebsocket.open(alice.world.url) as wire:
        await wire.connect({"token": alice.token})
