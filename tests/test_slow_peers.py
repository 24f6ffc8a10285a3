"""Clients that hold what they should not: answers that they do not read, bodies that trickle, file handles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from happy_light import pace
from happy_light.http.limits import Limits
from happy_light.server import Server
from happy_light.stack import hypercorn_server
from happy_light.stack.accepting import Room
from tests import commands
from tests.client import World, uid
from tests.conftest import Process
from tests.raw_connections import Connection, FrameWebsocket

Inside = Callable[..., Awaitable[Server]]


async def deaf(url: str, request: bytes, times: int = 1) -> socket.socket:
    """Send requests and read nothing, with as little room in the kernel as there may be."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (parts.hostname, parts.port))
    await loop.sock_sendall(connection, request * times)
    return connection


async def test_an_answer_that_nobody_reads_is_given_up(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        for _ in range(10):
            await alice.send(session, uid(), content="x" * 1_000_000)
        monkeypatch.setattr(pace, "PERIOD", 0.5)
        monkeypatch.setattr(hypercorn_server, "_LOOK_EVERY", 0.1)
        head = f"Host: x\r\nAuthorization: Bearer {alice.token}\r\n\r\n"
        connection = await deaf(server.url, f"GET /v1/sessions/{session}/messages HTTP/1.1\r\n{head}".encode())
        async with asyncio.timeout(20):
            while not server.context.limits._bodies:  # the answer is on its way
                await asyncio.sleep(0.01)
            (held,) = server.context.limits._bodies.values()
            assert 1_000_000 < held < 2_000_000  # one message: a large list is sent in pieces
            buffered = [transport.get_write_buffer_size() for transport in server._config.transports]
            assert max(buffered) < 1_000_000, "a large answer is written as it is read"
            while server.context.limits._bodies:
                await asyncio.sleep(0.02)
            while any(transport.get_write_buffer_size() for transport in server._config.transports):
                await asyncio.sleep(0.02)
        connection.close()


async def test_small_answers_that_nobody_reads_do_not_pile_up(inside: Inside) -> None:
    server = await inside()
    request = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100 + b"\r\n\r\n"
    connection = await deaf(server.url, request, 200)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):  # until the server reads no more
        async with asyncio.timeout(2):
            for _ in range(200):
                await loop.sock_sendall(connection, request * 1000)
    (transport,) = server._config.transports
    assert transport.get_write_buffer_size() < 300_000
    connection.close()


async def test_what_trickles_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace, "_now", lambda: now)

    def lasts(rate: float, start: int = 0) -> float:
        """How long a body lasts of which `start` bytes come at once and then `rate` a second."""
        nonlocal now
        now, size = 1000.0, float(start)
        one = pace.Pace()
        one.extend(int(size))
        for _ in range(4000):
            if one.is_over:
                break
            now += 1
            size += rate
            one.extend(int(size))
        return now - 1000

    assert lasts(1) <= 30
    assert lasts(2_200) <= 120  # just fast enough for the shorter period
    assert lasts(100, start=5_000_000) <= 60
    assert lasts(2_200, start=5_000_000) <= 60
    assert lasts(20_000) > 600  # a phone on a bad network
    assert lasts(20_000) <= 1800


# ------------------------------------------------------------------------------- one accounting
async def test_every_edge_counts_what_an_account_has_in_memory(inside: Inside) -> None:
    server = await inside(
        account_bodies="1000000", livekit_url="wss://x", livekit_api_key="x", livekit_api_secret="x" * 32
    )
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        counted = server.context.limits._bodies

        async def arrives(size: int) -> None:
            async with asyncio.timeout(10):
                while not any(count >= size for count in counted.values()):
                    await asyncio.sleep(0.01)

        async def released() -> None:
            async with asyncio.timeout(10):
                while counted:
                    await asyncio.sleep(0.01)

        head = f"Host: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Type: application/json\r\n"
        for path in ("/v1/sessions", "/v1/auth/response", "/v1/voice/token"):
            async with await Connection.open(server.url) as http:
                await http.send(
                    f"POST {path} HTTP/1.1\r\n{head}Content-Length: 900000\r\n\r\n".encode() + b" " * 700_000
                )
                await arrives(700_000)
                # Whatever comes on another edge is refused meanwhile.
                raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
                raw.writer.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"mask" + bytes(400_000))
                with contextlib.suppress(ConnectionResetError):
                    await raw.ends_with()
            await released()
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        raw.writer.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"mask" + bytes(700_000))
        await arrives(700_000)
        assert (await alice.post("/v1/sessions", {"tag": "t", "metadata": "x" * 400_000})).status_code == 429
        raw.writer.transport.abort()
        await released()
        # An event counts until it is stored; then all is as before.
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        raw.say("421" + json.dumps(["message", {"sid": session, "message": "x" * 900_000}]))
        assert (await raw.text()).startswith("431")
        await released()
        raw.writer.close()
        # Answers count until they are read, and only a GET is refused for them.
        for _ in range(3):
            await alice.machine(metadata="x" * 400_000)
        assert (await alice.get("/v1/machines")).status_code == 429
        await released()
        # A list that is sent in pieces counts as its largest one, and is refused before it begins.
        await alice.send(session, uid(), content="x" * 900_000)
        assert (await alice.get(f"/v1/sessions/{session}/messages")).status_code == 200
        await released()
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        raw.writer.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"mask" + bytes(700_000))
        await arrives(700_000)
        assert (await alice.get(f"/v1/sessions/{session}/messages")).status_code == 429
        raw.writer.transport.abort()
        await released()


# ----------------------------------------------------------------------------------- connections
def test_one_address_gets_half_of_all_and_the_oldest_stranger_makes_room() -> None:
    room = Room(8, 3, lambda address: address)
    assert [room.enter("a") for _ in range(4)] == [True] * 3 + [False]
    room.leave("a")
    assert room.enter("a") and not room.enter("a")
    assert [room.enter("") for _ in range(6)] == [True] * 5 + [False]
    asked: list[str] = []

    def stranger() -> bool:
        asked.append("stranger")
        return len(asked) == 1

    room.make_room.append(stranger)
    assert room.enter("b") and not room.enter("b")
    assert Room(8, 0, lambda address: address).address_max == 4
    assert Room(1, 0).address_max == 1


async def test_every_connection_that_ends_makes_room(inside: Inside) -> None:
    server = await inside()
    room = server._config.room
    async with World(server.url) as world:
        alice = await world.account()
        base = room.open
        for leave in ("close", "abort", "upgrade"):
            connection = await Connection.open(server.url)
            raw = await FrameWebsocket.open(server.url)
            if leave == "upgrade":
                await raw.enter(alice.token)
            async with asyncio.timeout(10):
                while room.open != base + 2:
                    await asyncio.sleep(0.01)
            for writer in (connection.writer, raw.writer):
                writer.transport.abort() if leave == "abort" else writer.close()
            async with asyncio.timeout(10):
                while room.open != base:
                    await asyncio.sleep(0.01)


def test_the_key_of_a_connection_is_that_of_its_network(inside: Any) -> None:
    from types import SimpleNamespace

    from happy_light.config import setting_types

    proxies = setting_types.networks("127.0.0.0/8, 10.0.0.0/8")
    limits = Limits(SimpleNamespace(trusted_proxies=proxies))  # type: ignore[arg-type]
    keys = [limits.connection_key(peer) for peer in ("127.0.0.1", "::1", "10.1.1.1", "192.0.2.1", "2001:db8::5")]
    assert keys == ["", "", "", "192.0.2.1", "2001:db8::/64"]


@pytest.fixture
def few_handles(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start servers with at most 256 file handles."""
    running: list[Process] = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def start(**environ: str) -> Process:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 4096), before[1]))
        running.append(Process(tmp_path / f"data{len(running)}", handles="256", **environ))
        return running[-1]

    yield start
    for process in running:
        process.kill()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_without_file_handles_operator_and_newcomers_get_through(
    few_handles: Callable[..., Process], tmp_path: Path, loop: str
) -> None:
    environ = {}
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError\n")
        environ["PYTHONPATH"] = f"{tmp_path}:{Path(__file__).parent.parent}"
    server = few_handles(**environ)
    parts = urlsplit(server.url)
    sockets = []
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        for _ in range(1000):
            with contextlib.suppress(OSError):
                sockets.append(socket.create_connection((parts.hostname, parts.port)))
        await commands.ok(server.folder, "stats")
        async with World(server.url) as newcomer:
            await newcomer.account()
        await alice.send(session, "1")
        assert await ui.heard("update")
    for each in sockets:
        each.close()
    log = "".join(server.log)
    assert "Traceback" not in log
    assert len(log) < 20_000
