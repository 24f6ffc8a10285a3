"""Websocket, polling and a websocket upgraded from polling: the same packets have the same effect on each."""

from __future__ import annotations

import asyncio
import base64
import json
from abc import ABC, abstractmethod

import aiohttp
import pytest

from tests.client import World
from tests.raw_connections import PacketWebsocket

POLLING = "/v1/updates/?EIO=4&transport=polling"
END = '42999["ping"]'
END_ANSWER = "43999[{}]"

# Each list is sent behind CONNECT, by a client that may be connected or not.
PACKETS: list[list[str | bytes]] = [
    ['421["ping"]', '42["ping"]', '422["ping",{"x":[1,2]}]'],
    ["42"], ["4"], ["42{}"], ['42"x"'], ["42[]"], ["42[5]"], ["42["], ['42["ping"'], ["421"], ["42x"],
    ["43"], ["43[]"], ["431"], ['431["x"]'], ["43["], ["44"], ['44{"message":"x"}'],
    ['450-["ping"]'], ['450-1["ping"]'], ['451-1["ping",{"_placeholder":true,"num":0}]', b"x"],
    ['451-1["message",{"sid":"x","message":{"_placeholder":true,"num":0}}]', b"\x00\xff"],
    ['451-1["ping",{"_placeholder":true,"num":3}]', b"x"], ['451-["ping"]', '421["ping"]'], ["45"], ["451"], ["45-"],
    ['4517-["ping"]'], ['461-1["x"]', b"x"], ["460-1[]"], [b"x"], [b""], ["46"],
    ["40"], ["40/other,"], ["40/other"], ["41/other,"], ['42/other,1["ping"]'], ["41"], ["3"], ["2"], ["0"], ["5"],
    ["6"], ["7"], ["x"], [""], ["4", "4"], ["48"], ["49"], ["42" + "9" * 30 + '["ping"]'], ['42-1["ping"]'],
    ['421["ü🙂"]'], ['421["ping","\\ud800"]'],
]  # fmt: skip


class Client(ABC):
    """A connection of one kind; `exchange` sends packets and returns what comes back, until the end of it."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    @abstractmethod
    async def exchange(self, packets: list[str | bytes]) -> list[str]: ...

    async def open_polling(self) -> str:
        return str(json.loads((await (await self.http.get(self.url + POLLING)).text())[1:])["sid"])


async def over(wire: PacketWebsocket, packets: list[str | bytes]) -> list[str]:
    heard: list[str] = []
    try:
        for packet in packets:
            await wire.send(packet)
        async with asyncio.timeout(10):
            while heard[-1:] != [END_ANSWER]:
                heard.append(await wire.packet())
    except (EOFError, aiohttp.ClientError, ConnectionError):
        heard.append("end")
    return heard


class Websocket(Client):
    async def exchange(self, packets: list[str | bytes]) -> list[str]:
        async with await PacketWebsocket.open(self.url) as wire:
            return await over(wire, packets)


class Upgraded(Client):
    async def exchange(self, packets: list[str | bytes]) -> list[str]:
        async with await PacketWebsocket.open(self.url, await self.open_polling()) as wire:
            await wire.send("2probe")
            assert await wire.packet() == "3probe"
            await wire.send("5")
            return await over(wire, packets)


class Polling(Client):
    async def exchange(self, packets: list[str | bytes]) -> list[str]:
        url = f"{self.url}{POLLING}&sid={await self.open_polling()}"
        heard: list[str] = []
        for packet in packets:
            text = packet if isinstance(packet, str) else f"b{base64.b64encode(packet).decode()}"
            if (await self.http.post(url, data=text)).status != 200:
                return [*heard, "end"]
        while heard[-1:] != [END_ANSWER]:
            answer = await self.http.get(url)
            if answer.status != 200:
                return [*heard, "end"]
            heard += (await answer.text()).split("\x1e")
        return heard


@pytest.mark.parametrize("connected", [True, False])
async def test_packets_have_the_same_effect_on_every_transport(world: World, connected: bool) -> None:
    alice = await world.account()
    connect: list[str | bytes] = [f"40{json.dumps({'token': alice.token})}"]
    async with aiohttp.ClientSession() as http:

        async def exchange(kind: type[Client], packets: list[str | bytes]) -> list[str]:
            # Who is not connected hears no answer to the last packet, but that of a CONNECT behind it.
            sent = [*connect, *packets, END] if connected else [*packets, *connect, END]
            heard = await kind(http, world.url).exchange(sent)
            if heard[-1] == "end":  # what was sent before may be lost with it
                return ["end"]
            return [packet.partition('{"sid"')[0] for packet in heard if packet != "6"]

        for packets in PACKETS:
            if connected and packets == ["41"]:
                continue  # what follows is not answered: see test_secrets.py
            websocket, upgraded, polling = [await exchange(kind, packets) for kind in (Websocket, Upgraded, Polling)]
            assert websocket == upgraded == polling, packets
            assert websocket[-1] in (END_ANSWER, "end")
