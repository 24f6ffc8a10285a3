"""Websockets: RFC 6455, what no client should send, and clients that are gone or do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.frames import Frame, Opcode

from happy_light import live
from happy_light.live import transport
from happy_light.server import Server
from tests.client import World
from tests.conftest import Process
from tests.raw_connections import FrameWebsocket, PacketWebsocket

Inside = Callable[[], Awaitable[Server]]


@pytest.fixture
async def raw(world: World) -> AsyncIterator[FrameWebsocket]:
    alice = await world.account()
    raw = await (await FrameWebsocket.open(world.url)).enter(alice.token)
    yield raw
    raw.writer.close()


async def test_no_compression_is_agreed_to(raw: FrameWebsocket) -> None:
    """Hypercorn always agrees to permessage-deflate: 100 KB a connection, and CPU for ciphertext."""
    assert b"permessage-deflate" not in raw.head
    assert b"sec-websocket-extensions" not in raw.head.lower()


async def test_a_message_in_fragments_with_control_frames_between(raw: FrameWebsocket) -> None:
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


async def test_a_character_cut_by_a_fragment_and_frames_cut_by_the_network(raw: FrameWebsocket) -> None:
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
async def test_frames_of_every_length_form(raw: FrameWebsocket, size: int) -> None:
    raw.say('421["ping",' + json.dumps("x" * size) + "]")
    assert await raw.text() == "431[{}]"


async def test_many_frames_in_one_segment_keep_their_order(raw: FrameWebsocket) -> None:
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
async def test_a_broken_frame_ends_the_connection_with_its_code(
    raw: FrameWebsocket, server: Process, what: str
) -> None:
    """The library closes silently, and nobody learns why a client is away again and again."""
    before = len(server.log)
    data, code = BROKEN[what]
    raw.writer.write(data)
    assert await raw.ends_with() == code
    if code != 1007:  # the frame is good, only its text is not
        async with asyncio.timeout(10):
            while not any("too large websocket frame" in line for line in server.log[before:]):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("data", [b"\xff", b"42[", b"9", b"1"])
async def test_two_mistakes_in_one_segment_end_it_like_one(raw: FrameWebsocket, data: bytes) -> None:
    raw.writer.write(masked(Opcode.TEXT, data) + b"\xc1\x80abcd")
    assert await raw.ends_with() in (1000, 1002, 1007)


@pytest.mark.parametrize("code", [1000, 1001, 3456])
async def test_a_close_is_answered_with_its_code(raw: FrameWebsocket, code: int) -> None:
    raw.send(Opcode.CLOSE, code.to_bytes(2, "big") + b"bye")
    assert await raw.ends_with() == code


@pytest.mark.parametrize("how", ["ends", "reset", "in a frame"])
async def test_a_client_that_is_killed_is_gone_at_once(world: World, how: str) -> None:
    alice = await world.account()
    ui = await alice.socket()
    raw = await (await FrameWebsocket.open(world.url)).enter(alice.token, clientType="machine-scoped", machineId="m")
    assert (await ui.wait("ephemeral"))["active"] is True
    if how == "reset":
        raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "in a frame":
        raw.writer.write(masked(Opcode.TEXT, b"x" * 300)[:100])
    raw.writer.close()  # as the kernel does for it: no frame says goodbye
    assert (await ui.wait("ephemeral", timeout=5))["active"] is False  # not when the ping is not answered, in a minute


@pytest.mark.parametrize("packet", ["42[", '42{"a":1}', "42", "4", "49", "451-", '42["x"', "9", "42/other,[1]", "43x"])
async def test_a_packet_that_is_none_harms_nobody_else(world: World, raw: FrameWebsocket, packet: str) -> None:
    raw.say(packet)
    raw.say('429["ping"]')
    alice = await world.account()
    assert await (await alice.socket()).call("ping") == {}


async def test_what_follows_a_connect_at_once_is_not_lost(world: World) -> None:
    alice = await world.account()
    raw = await FrameWebsocket.open(world.url)
    raw.say("40" + json.dumps({"token": alice.token}))
    raw.say('421["ping"]')
    raw.say('422["rpc-register",{"method":"m"}]')
    assert (await raw.text()).startswith("40{")
    assert await raw.text() == "431[{}]"
    assert await raw.text() == '42["rpc-registered",{"method":"m"}]'
    assert await raw.text() == '432[{"ok":true}]'


async def test_what_waits_behind_a_connect_is_bounded(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WAITING_MAX", 50)  # fewer than are handled before the token is verified
    async with World((await inside()).url) as world:
        for count in (40, 60):
            alice = await world.account()  # whose token has to be verified
            raw = await FrameWebsocket.open(world.url)
            packets = [b'42%d["ping"]' % i for i in range(count)]
            connect = b"40" + json.dumps({"token": alice.token}).encode()
            raw.writer.write(b"".join(masked(Opcode.TEXT, packet) for packet in [connect, *packets]))
            if count > 50:
                assert await raw.ends_with() == 1000
            else:
                assert (await raw.text()).startswith("40{")
                assert [await raw.text() for _ in packets] == [f"43{i}[{{}}]" for i in range(count)]
            raw.writer.close()


async def test_binary_attachments_arrive(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    assert await ui.call("message", {"sid": "x", "message": b"\x00\x01"}) == {
        "ok": False,
        "error": "Invalid parameters",
    }
    assert await ui.call("ping") == {}


async def test_a_large_packet_arrives(world: World) -> None:
    """Hypercorn's own limit is 16 MiB."""
    ui = await (await world.account()).socket()
    assert await ui.call("ping", "x" * 17_000_000, timeout=30) == {}


async def test_nothing_of_the_http_server_stays_with_a_websocket(inside: Inside) -> None:
    server = await inside()
    tasks = asyncio.all_tasks()
    async with await PacketWebsocket.open(server.url):
        async with asyncio.timeout(10):
            while asyncio.all_tasks() - tasks:
                await asyncio.sleep(0.01)
        assert len(server.app.live.connections) == 1


async def test_a_client_that_does_not_read_is_dropped_and_others_are_unharmed(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio keeps what a client does not read, without a bound."""
    monkeypatch.setattr(transport, "UNREAD_MAX", 2_000_000)
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        deaf = await (await FrameWebsocket.open(world.url)).enter(alice.token)
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for i in range(40):  # more than the kernel's buffers on both sides hold
            await alice.send(session, str(i), content="x" * 500_000)
            if len(server.app.live.clients) == 1:
                break
        assert len(server.app.live.clients) == 1
        heard = [body["message"]["seq"] for body in await ui.updates()]
        assert heard == list(range(1, len(heard) + 1))
