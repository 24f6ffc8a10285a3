"""The fast way: that it is in use, and that it speaks RFC 6455 like the stock one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as Frames

from happy_light import live
from happy_light.live import takeover
from happy_light.server import Server
from tests.client import World, uid
from tests.conftest import Process

Inside = Callable[[], Awaitable[Server]]


class Raw:
    """A websocket by hand: any bytes may be sent, frames are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = Frames(Side.CLIENT, state=OPEN, max_size=None)
        self.received: list[Frame] = []
        self.head = b""

    @classmethod
    async def open(cls, url: str, **tls: Any) -> Raw:
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
        self.writer.write(Frame(opcode, data, fin).serialize(mask=True))

    def say(self, text: str) -> None:
        self.send(Opcode.TEXT, text.encode())

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the connection."""
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

    async def enter(self, token: str, **auth: Any) -> Raw:
        """CONNECT, confirmed."""
        self.say("40" + json.dumps({"token": token, **auth}))
        assert (await self.text()).startswith("40{")
        return self

    async def ends_with(self) -> int | None:
        """Reads to the end. -> the close code that the server gave."""
        code = None
        while (frame := await self.frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                code = Close.parse(frame.data).code
        return code


@pytest.fixture
async def raw(world: World) -> AsyncIterator[Raw]:
    alice = await world.account()
    raw = await (await Raw.open(world.url)).enter(alice.token)
    yield raw
    raw.writer.close()


async def test_no_compression_is_agreed_to(raw: Raw) -> None:
    """Hypercorn always agrees to permessage-deflate: 100 KB a connection, and CPU for ciphertext."""
    assert b"permessage-deflate" not in raw.head
    assert b"sec-websocket-extensions" not in raw.head.lower()


async def test_a_message_in_fragments_with_control_frames_between(raw: Raw) -> None:
    raw.send(Opcode.TEXT, b'427["pi', fin=False)
    raw.send(Opcode.PING, b"are you there")
    raw.send(Opcode.CONT, b"n", fin=False)
    raw.send(Opcode.PONG, b"unasked")
    raw.send(Opcode.CONT, b'g"]')
    # In one segment or in five: the pong and the ack come, whichever is first.
    frames = [await raw.frame(), await raw.frame()]
    assert {(frame.opcode, bytes(frame.data)) for frame in frames if frame} == {
        (Opcode.PONG, b"are you there"),
        (Opcode.TEXT, b"437[{}]"),
    }


async def test_a_character_cut_by_a_fragment_and_frames_cut_by_the_network(raw: Raw) -> None:
    event = '421["rpc-register",{"method":"ü🙂"}]'.encode()
    cut = event.index("🙂".encode()) + 2
    frames = Frame(Opcode.TEXT, event[:cut], False).serialize(mask=True)
    frames += Frame(Opcode.CONT, event[cut:]).serialize(mask=True)
    for i in range(len(frames)):
        raw.writer.write(frames[i : i + 1])
        await raw.writer.drain()
    assert await raw.text() == '42["rpc-registered",{"method":"ü🙂"}]'
    assert await raw.text() == '431[{"ok":true}]'


@pytest.mark.parametrize("size", [0, 1, 90, 125, 126, 127, 65_500, 65_535, 65_536, 70_000, 3_000_000])
async def test_frames_of_every_length_form(raw: Raw, size: int) -> None:
    raw.say('421["ping",' + json.dumps("x" * size) + "]")
    assert await raw.text() == "431[{}]"


async def test_many_frames_in_one_segment_keep_their_order(raw: Raw) -> None:
    raw.writer.write(b"".join(Frame(Opcode.TEXT, b'42%d["ping"]' % i).serialize(mask=True) for i in range(500)))
    assert [await raw.text() for _ in range(500)] == [f"43{i}[{{}}]" for i in range(500)]


def masked(opcode: Opcode, data: bytes) -> bytes:
    return Frame(opcode, data).serialize(mask=True)


BROKEN = {
    "an unmasked frame": (Frame(Opcode.TEXT, b'42["ping"]').serialize(mask=False), 1002),
    "a reserved bit": (b"\xc1\x80abcd", 1002),
    "an unknown opcode": (b"\x83\x80abcd", 1002),
    "a continuation of nothing": (masked(Opcode.CONT, b"x"), 1002),
    "a control frame in fragments": (b"\x09\x80abcd", 1002),
    "a long control frame": (b"\x89\xfe\x00\x80abcd" + b"x" * 128, 1002),
    "text that is no UTF-8": (masked(Opcode.TEXT, b"4\xff\xfe"), 1007),
    "a frame past the bound": (b"\x81\xff" + (live.PACKET_MAX + 1).to_bytes(8, "big") + b"abcd", 1009),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_frame_ends_the_connection_with_its_code(raw: Raw, server: Process, what: str) -> None:
    """The library closes silently, and nobody learns why a client is away again and again."""
    before = len(server.log)
    data, code = BROKEN[what]
    raw.writer.write(data)
    assert await raw.ends_with() == code
    if code != 1007:  # the frame is good, only its text is not
        async with asyncio.timeout(10):
            while not any("too large a one" in line for line in server.log[before:]):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_our_frames_are_those_of_the_library(size: int) -> None:
    assert takeover.frame(b"x" * size) == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)


@pytest.mark.parametrize("code", [1000, 1001, 3456])
async def test_a_close_is_answered_with_its_code(raw: Raw, code: int) -> None:
    raw.send(Opcode.CLOSE, code.to_bytes(2, "big") + b"bye")
    assert await raw.ends_with() == code


@pytest.mark.parametrize("packet", ["42[", '42{"a":1}', "42", "4", "49", "451-", '42["x"', "9", "42/other,[1]", "43x"])
async def test_a_packet_that_is_none_harms_nobody_else(world: World, raw: Raw, packet: str) -> None:
    raw.say(packet)
    raw.say('429["ping"]')
    alice = await world.account()
    assert await (await alice.socket()).call("ping") == {}


async def test_what_follows_a_connect_at_once_is_not_lost(world: World) -> None:
    alice = await world.account()
    raw = await Raw.open(world.url)
    raw.say("40" + json.dumps({"token": alice.token}))
    raw.say('421["ping"]')
    raw.say('422["rpc-register",{"method":"m"}]')
    assert (await raw.text()).startswith("40{")
    assert await raw.text() == "431[{}]"
    assert await raw.text() == '42["rpc-registered",{"method":"m"}]'
    assert await raw.text() == '432[{"ok":true}]'


async def test_binary_attachments_arrive_through_the_engine(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    assert await ui.call("message", {"sid": "x", "message": b"\x00\x01"}) == {
        "ok": False,
        "error": "Invalid parameters",
    }
    assert await ui.call("ping") == {}


async def test_websockets_are_taken_over_and_polling_is_not(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        await alice.socket()
        await alice.socket(machine=uid())
        assert [link.taken_over for link in server.app.live.links.values()] == [True, True]
        polling = await alice.socket(transports=("polling",))
        assert [link.taken_over for link in server.app.live.links.values()] == [True, True, False]
        await alice.session()
        assert [body["t"] for body in await polling.updates()] == ["new-session"]


async def test_without_the_transport_the_stock_path_does_the_work(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server, or a middleware around `send`, hides the transport."""
    monkeypatch.setattr(takeover, "_connection_behind", lambda send: None)
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui, sender = await alice.socket(), await alice.socket(session=session)
        assert [link.taken_over for link in server.app.live.links.values()] == [False, False]
        acks = await asyncio.gather(*(sender.call("message", {"sid": session, "message": str(i)}) for i in range(300)))
        assert [ack["seq"] for ack in acks] == list(range(1, 301))
        assert [body["message"]["seq"] for body in await ui.updates()] == list(range(1, 301))
        assert await sender.call("ping", "x" * 17_000_000, timeout=30) == {}, "Hypercorn's own bound is 16 MiB"


async def test_a_client_that_does_not_read_is_dropped_and_others_are_unharmed(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio keeps what a client does not read, without a bound."""
    monkeypatch.setattr(takeover, "QUEUE_MAX", 2_000_000)
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        deaf = await (await Raw.open(world.url)).enter(alice.token)
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for i in range(40):  # more than the kernel's buffers on both sides hold
            await alice.send(session, str(i), content="x" * 500_000)
            if len(server.app.live.links) == 1:
                break
        assert len(server.app.live.links) == 1
        heard = [body["message"]["seq"] for body in await ui.updates()]
        assert heard == list(range(1, len(heard) + 1))
