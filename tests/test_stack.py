"""What Hypercorn and asyncio do unless they are stopped from it, and what handlers and clients may not break."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from happy_light import config, json_codec, wire
from happy_light.bus import Audience, Ephemeral
from happy_light.live import EventHandler, transport
from happy_light.live.acks import ok_error
from happy_light.server import Server
from happy_light.server.process import report_exception
from tests.client import World
from tests.conftest import SECRET, Start
from tests.raw_connections import Connection, PacketWebsocket

Inside = Callable[[], Awaitable[Server]]


class Poller:
    """A client over polling that asks only when the test wants it."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    @classmethod
    async def connect(cls, http: aiohttp.ClientSession, server: str, token: str) -> Poller:
        base = f"{server}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        poller = cls(http, f"{base}&sid={sid}")
        await poller.post(f"40{json.dumps({'token': token})}")
        assert (await poller.get()).startswith("40")
        return poller

    async def post(self, payload: str) -> None:
        assert (await self.http.post(self.url, data=payload)).status == 200

    async def get(self) -> str:
        return await (await self.http.get(self.url)).text()


# ---------------------------------------------------------------------------------------- Hypercorn
async def test_a_stop_closes_sockets_in_a_way_after_which_clients_come_back(start: Start) -> None:
    """JavaScript clients do not reconnect after a DISCONNECT packet; only the connection may end."""
    server = start()
    async with World(server.url) as world, aiohttp.ClientSession() as http:
        alice = await world.account()
        poller = await Poller.connect(http, server.url, alice.token)
        async with await PacketWebsocket.open(server.url) as wire, await Connection.open(server.url) as polling:
            await wire.connect({"token": alice.token})
            assert (await polling.request("GET", "/health")).status == 200
            path = poller.url.removeprefix(server.url)
            await polling.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await alice.get("/v1/machines")  # by now the poll has arrived and waits
            assert await asyncio.to_thread(server.stop) == 0
            with pytest.raises(EOFError):
                assert await wire.packet() is None, "nothing is said before the end"
            assert b"41" not in (await polling.answer()).body
    assert "cut off" not in "".join(server.log), "they ended at once, not at the end of a stop's patience"


async def test_a_thousand_requests_on_one_connection(world: World) -> None:
    """Hypercorn closes a connection after its thousandth request, in the middle of what a client pipelines."""
    async with await Connection.open(world.url) as connection:
        await connection.send(b"GET /v1/machines HTTP/1.1\r\nHost: x\r\n\r\n" * 1_050)
        for _ in range(1_050):
            assert (await connection.answer()).status == 401


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the length of the queue")
async def test_a_crowd_that_connects_at_once_finds_room(tmp_path: Path) -> None:
    """Hypercorn's queue of connections is for 100; everybody comes back at once after a restart."""
    server = Server(config.load({"HANDY_MASTER_SECRET": SECRET}, {"data_dir": str(tmp_path), "port": "0"}))
    await server.start()
    with socket.socket(fileno=os.dup(server.socket.fileno())) as listener:
        ready = asyncio.Event()
        serving = asyncio.create_task(server.serve(ready.set))
        async with World(server.url) as world:
            assert (await world.http.get("/health")).is_success  # Hypercorn listens by now
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        server.stop()
        await serving
    assert struct.unpack_from("I", told, 28) == (1024,)  # tcpi_sacked, which is the queue's length here


async def test_no_line_is_written_for_a_request(start: Start) -> None:
    """Hypercorn's access log costs half of the CPU, and paths and addresses are nobody's business."""
    server = start("--log-level", "debug")
    async with World(server.url) as world:
        for _ in range(5):
            await world.http.get("/health?marked")
        async with await PacketWebsocket.open(server.url):
            pass
    assert server.stop() == 0, "".join(server.log)
    assert server.process.stdout is not None
    text = "".join(server.log + server.printed) + server.process.stdout.read()
    assert "marked" not in text and "GET" not in text and "HTTP/1.1" not in text


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_uvloop_is_used_where_it_is_installed_and_not_needed(installed: bool, tmp_path: Path) -> None:
    """Hypercorn's `serve` ignores its setting for the loop, so it is chosen around it."""
    pytest.importorskip("uvloop")
    missing = "sys.modules['uvloop'] = None"
    program = (
        "import asyncio, sys\n"
        f"{'' if installed else missing}\n"
        "from happy_light import config\nfrom happy_light.server import process\n"
        "settings = config.load({}, {'data_dir': sys.argv[1], 'port': '0', 'metrics_enabled': 'false'})\n"
        "def ready(server):\n"
        "    print(type(asyncio.get_running_loop()).__module__)\n"
        "    server.stop()\n"
        "process.run(settings, ready)\n"
    ).replace('sys.modules["uvloop"]', "sys.modules['uvloop']")
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("uvloop" if installed else "asyncio")


async def test_a_body_that_is_refused_may_still_be_sent_whole(world: World) -> None:
    """Hypercorn resets a connection over unread bytes: the client would see that, and never why it was refused."""
    body = b"4" * 8_000_000
    async with await Connection.open(world.url) as connection:
        path = "/v1/updates/?EIO=4&transport=polling"
        async with asyncio.timeout(20):
            await connection.send(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await connection.ended()


# ------------------------------------------------------------------------------------------- asyncio
async def test_only_what_clients_and_stops_cut_off_is_not_reported(
    inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio reports connections that broke as errors; the same errors from elsewhere are news."""
    server = await inside()
    loop = asyncio.get_running_loop()

    def told(error: BaseException, **more: Any) -> bool:
        caplog.clear()
        report_exception(server, loop, {"message": "m", "exception": error, **more})
        return bool(caplog.records)

    with caplog.at_level(logging.ERROR, "asyncio"):
        assert not told(ConnectionResetError(), transport=object())
        assert told(ConnectionResetError(), future=loop.create_future())
        assert told(ConnectionResetError())
        assert told(ValueError(), transport=object())
        assert told(asyncio.CancelledError())
        server.stop()
        assert not told(asyncio.CancelledError())
        assert told(ValueError())


async def test_a_client_that_is_gone_before_its_websocket_begins_leaves_nothing(
    inside: Inside, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport has no protocol any more when its client has left, so there is nothing to take over."""
    server = await inside()
    begin = server.app.live.__class__.__call__

    async def leaves_meanwhile(self: Any, scope: Any, receive: Any, send: Any) -> None:
        (transport,) = server._config.transports
        transport.abort()
        while transport.get_protocol() is not None:
            await asyncio.sleep(0)
        await begin(self, scope, receive, send)

    monkeypatch.setattr(server.app.live.__class__, "__call__", leaves_meanwhile)
    with pytest.raises(aiohttp.ClientError):
        await PacketWebsocket.open(server.url)
    assert not server.app.live.connections
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ------------------------------------------------------------------------------------------- sockets
async def test_a_handler_that_fails_in_any_way_still_acks_and_gives_nothing_away(
    inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an ack the caller would wait for its timeout."""
    server = await inside()

    def raises(*_: Any) -> None:
        raise RuntimeError("SELECT secret FROM /home/somebody")

    async def raises_later(*_: Any) -> None:
        await asyncio.sleep(0)
        raises()

    def future(*_: Any) -> asyncio.Future[None]:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ZeroDivisionError("line 5"))
        return failed

    for name, handler in (("raises", raises), ("later", raises_later), ("future", future)):
        server.app.live.dispatcher.events[name] = EventHandler(handler, ok_error)
    async with World(server.url) as world:
        alice = await world.account()
        for transport in ("websocket", "polling"):
            ui = await alice.socket(transports=(transport,))
            for name in ("raises", "later", "future"):
                assert await ui.call(name, {}) == {"ok": False, "error": "Internal error"}
            assert await ui.call("ping") == {}
    assert len([record for record in caplog.records if record.exc_info]) == 6, "it is in the log, for the operator"


async def test_a_polling_client_that_does_not_ask_is_dropped(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is in memory."""
    monkeypatch.setattr(transport, "UNREAD_MAX", 2_000_000)
    server = await inside()
    async with World(server.url) as world, aiohttp.ClientSession() as http:
        alice = await world.account()
        await Poller.connect(http, server.url, alice.token)
        session = (await alice.session())["id"]
        for i in range(5):
            await alice.send(session, str(i), content="x" * 500_000)
        assert not server.app.live.clients
        assert not server.app.live.connections


async def test_an_event_is_encoded_once_and_makes_no_task_for_its_receivers(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()
    encoded: list[Any] = []

    def encode(value: Any, to: Callable[[Any], bytes] = json_codec.encode) -> bytes:
        encoded.append(value)
        return to(value)

    async with World(server.url) as world, aiohttp.ClientSession() as http:
        alice = await world.account()
        sockets = [await alice.socket() for _ in range(5)]
        poller = await Poller.connect(http, server.url, alice.token)
        tasks = asyncio.all_tasks()
        with monkeypatch.context() as patched:
            patched.setattr(json_codec, "encode", encode)
            server.context.bus.publish(Ephemeral(Audience(alice.id), wire.Ok()))
        assert asyncio.all_tasks() == tasks
        assert len(encoded) == 1
        for ui in sockets:
            assert await ui.heard() == [("ephemeral", {"ok": True})]
        assert re.fullmatch(r'42\["ephemeral",\{"ok":true\},"[\w-]{8}\.\d+"\]', await poller.get())


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_what_was_sent_before_a_client_left_is_done(world: World, transport: str) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, sender = await alice.socket(), await alice.socket(transports=(transport,))
    for i in range(20):
        await sender.emit("message", {"sid": session, "message": f"{i}"})
    await sender.close()
    for i in range(20):
        assert (await ui.wait("update"))["body"]["message"]["content"]["c"] == f"{i}"


# ------------------------------------------------------------------------- who stays without signing in
async def test_who_says_disconnect_and_stays_is_a_stranger_again(inside: Inside) -> None:
    """A connection whose Socket.IO part said DISCONNECT may not stay for as long as it answers pings."""
    server = await inside()
    server.app.live.connections.connect_timeouts.seconds = 0.5
    async with World(server.url) as world:
        alice = await world.account()
        async with await PacketWebsocket.open(server.url) as idle, await PacketWebsocket.open(server.url) as back:
            for wire_ in (idle, back):
                await wire_.connect({"token": alice.token})
                await wire_.send("41")
            assert (await back.connect({"token": alice.token})).startswith("40")
            assert await idle.ended()
            await back.send('421["ping"]')
            assert await back.packet() == "431[{}]"
            assert len(server.app.live.connections) == 1
        async with aiohttp.ClientSession() as http:
            poller = await Poller.connect(http, server.url, alice.token)
            await poller.post("41")
            async with asyncio.timeout(20):
                while (await http.get(poller.url)).status == 200:
                    pass
