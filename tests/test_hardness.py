"""Faults: kills under load, stops in the middle of everything, clients that do not read, and what logs say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
import pytest
import socketio

from tests.client import World, b64, uid
from tests.conftest import SECRET, Start
from tests.hardness.chaos import chaos
from tests.hardness.crash import crash
from tests.raw_connections import Connection, PacketWebsocket
from tests.services import Postgres

pytest_plugins = ["tests.service_fixtures"]
pytestmark = pytest.mark.slow


async def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path) -> None:
    found = await crash(4, tmp_path / "data")
    assert not found.wrong, found.table()
    assert found.checked >= found.acknowledged


async def test_nothing_acknowledged_is_lost_by_kills_of_postgres(
    start_postgres: Callable[..., Postgres], tmp_path: Path
) -> None:
    found = await crash(4, tmp_path / "data", start_postgres(fsync=True))
    assert not found.wrong, found.table()
    assert found.checked >= found.acknowledged


async def test_several_processes_keep_every_promise_while_they_are_killed() -> None:
    books = await chaos(25, 5, 1.5)
    assert not books.wrong, books.table()
    assert books.events["kill"] >= 1 and books.acknowledged > 50 and books.answered > 20, books.table()


async def test_a_stop_in_the_middle_of_everything_takes_less_than_five_seconds(start: Start, tmp_path: Path) -> None:
    """Hypercorn waits for requests without end, and may skip what an ASGI application does at its shutdown."""
    server = start()
    async with World(server.url) as world, aiohttp.ClientSession() as http:
        alice = await world.account()
        session = (await alice.session())["id"]
        wires = [await PacketWebsocket.open(server.url) for _ in range(200)]
        for wire in wires[:-5]:  # five never say who they are
            assert (await wire.connect({"token": alice.token})).startswith("40")
        polling = f"{server.url}/v1/updates/?EIO=4&transport=polling"
        polls = []
        for _ in range(10):
            sid = json.loads((await (await http.get(polling)).text())[1:])["sid"]
            await http.post(f"{polling}&sid={sid}", data=f"40{json.dumps({'token': alice.token})}")
            await http.get(f"{polling}&sid={sid}")
            polls.append(asyncio.create_task(http.get(f"{polling}&sid={sid}")))
        await wires[0].send('42["rpc-register",{"method":"m"}]')
        await wires[1].send('421["rpc-call",{"method":"m"}]')  # nobody answers
        await wires[2].send('421["rpc-call",{"method":"nobody"}]')
        async with await Connection.open(server.url) as body, await Connection.open(server.url) as upload:
            head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Length: 1000000\r\n"
            await body.send(f"POST /v1/sessions {head}Content-Type: application/json\r\n\r\n{{".encode())
            file = f"/v1/sessions/{session}/attachments/{uid()}.enc"
            await upload.send(f"PUT {file} {head}Content-Type: application/octet-stream\r\n\r\nhalf".encode())
            await alice.send(session, "last")
            began = time.monotonic()
            assert await asyncio.to_thread(server.stop, timeout=20) == 0
            assert time.monotonic() - began < 5
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*(wire.__aexit__(None, None, None) for wire in wires), return_exceptions=True)
    assert "Traceback" not in "".join(server.log), "".join(server.log)
    assert not list(server.folder.glob("*-wal")), "the database was closed, although connections had to be cut off"
    server = start()
    async with World(server.url) as world:
        alice = await world.account(alice.key)
        page = await alice.ok("GET", f"/v3/sessions/{session}/messages")
        assert [message["localId"] for message in page["messages"]] == ["last"]
        assert (await alice.get(file)).status_code == 404
    assert not [path for path in (server.folder / "attachments").rglob("*") if path.is_file()]


async def test_clients_come_back_by_themselves_after_a_restart(start: Start) -> None:
    server = start()
    port = server.url.rpartition(":")[2]
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        clients, seen, came = [], [], asyncio.Queue[int]()
        for number, transports in enumerate([["websocket"]] * 20 + [["polling"]] * 5 + [["polling", "websocket"]] * 5):
            client = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=1)
            client.on("connect", lambda number=number: came.put_nowait(number))
            client.on("update", lambda frame, offset: seen.append(frame["body"]["message"]["localId"]))
            await client.connect(
                server.url,
                auth={"token": alice.token},
                transports=transports,
                socketio_path="v1/updates",
                wait_timeout=20,
            )
            clients.append(client)
        async with asyncio.timeout(20):
            assert {await came.get() for _ in clients} == set(range(len(clients)))
        assert await asyncio.to_thread(server.stop) == 0
        server = start("--port", port)
        async with asyncio.timeout(60):
            assert {await came.get() for _ in clients} == set(range(len(clients)))
        await alice.send(session, "again")
        async with asyncio.timeout(20):
            while len(seen) < len(clients):
                await asyncio.sleep(0.05)
        assert seen == ["again"] * len(clients)
        await asyncio.gather(*(client.disconnect() for client in clients))


async def test_a_client_that_does_not_read_is_dropped_and_others_are_unharmed(start: Start) -> None:
    """No library here bounds what waits for a client."""
    server = start()
    process = psutil.Process(server.pid)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui, sender = await alice.socket(), await alice.socket(session=session)
        async with await PacketWebsocket.open(server.url) as deaf:
            await deaf.connect({"token": alice.token})
            assert deaf.socket._conn is not None
            assert deaf.socket._conn.transport is not None
            deaf.socket._conn.transport.pause_reading()
            before = process.memory_info().rss
            for i in range(80):
                ack = await sender.call("message", {"sid": session, "message": "x" * 1_000_000})
                assert ack["seq"] == i + 1
            async with asyncio.timeout(20):
                while not any("does not read" in line for line in server.log):
                    await asyncio.sleep(0.05)
            assert process.memory_info().rss - before < 150_000_000
        async with asyncio.timeout(30):
            heard = 0
            while heard < 80:
                heard += len(await ui.heard("update"))


async def test_reconnecting_leaves_nothing_behind(start: Start) -> None:
    server = start()
    process = psutil.Process(server.pid)
    async with World(server.url) as world:
        alice = await world.account()

        async def reconnect(times: int) -> None:
            for i in range(times):
                async with await PacketWebsocket.open(server.url) as wire:
                    auth = {"token": alice.token, "clientType": "machine-scoped", "machineId": f"m{i % 7}"}
                    await wire.connect(auth)
                    await wire.send('42["rpc-register",{"method":"m"}]')

        await asyncio.gather(*(reconnect(50) for _ in range(4)))
        memory, handles = process.memory_info().rss, process.num_fds()
        await asyncio.gather(*(reconnect(100) for _ in range(4)))
        async with asyncio.timeout(20):
            while process.num_fds() > handles + 4:
                await asyncio.sleep(0.1)
        assert process.memory_info().rss - memory < 8_000_000


async def test_no_secret_is_in_a_debug_log(start: Start) -> None:
    """At debug the libraries log packets and headers, tokens and all."""
    server = start("--log-level", "debug")
    cipher = "CIPHERTEXT" + os.urandom(12).hex()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session(cipher, cipher, dataEncryptionKey=b64(cipher)))["id"]
        for transport in ("websocket", "polling"):
            ui = await alice.socket(session=session, transports=(transport,))
            await ui.call("message", {"sid": session, "message": cipher, "localId": cipher})
            await ui.call("update-metadata", {"sid": session, "metadata": cipher, "expectedVersion": "wrong"})
            await ui.call("rpc-register", {"method": cipher})
            await ui.call(cipher, {"x": cipher})
            with contextlib.suppress(ConnectionError):
                await world.socket({"token": f"{alice.token}{cipher}"}, ("websocket",))
        await alice.send(session, "l", content=cipher)
        await alice.post(f"/v3/sessions/{session}/messages", {"messages": [{"content": 5, "localId": cipher}]})
        await alice.get(f"/v1/kv/{cipher}")
        await alice.get("/v1/machines", headers={"Authorization": f"Bearer {alice.token}{cipher}"})
        await alice.post("/v1/connect/openai/register", {"token": cipher})
        await alice.post("/v1/push-tokens", {"token": f"ExponentPushToken[{cipher}]"})
        async with await PacketWebsocket.open(server.url) as wire:
            await wire.connect({"token": alice.token})
            await wire.send(f'42["{cipher}"')
            await wire.ended(5)
    assert server.stop() == 0
    log = "".join(server.log + server.printed)
    for secret in (alice.token, alice.token.split(".")[1], alice.token.split(".")[2], SECRET, cipher, b64(cipher)):
        assert secret not in log
    for word in ("Bearer ", "authorization:", "b'authorization'"):
        assert word not in log
    speakers = set(re.findall(r"^\S+ \S+ [A-Z]+ (\w+)[\w.]*:", log, re.MULTILINE))
    assert speakers == {"happy_light"}, "the level is for what this server says itself"
