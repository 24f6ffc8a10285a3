"""Limits: strangers by address, accounts by what they hold; and what a real client does passes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from happy_light import pace
from happy_light.clients import client
from happy_light.errors import ApiError
from happy_light.http import addresses, limits
from happy_light.server import Server
from tests.client import Socket, World, b64
from tests.conftest import Start
from tests.raw_connections import Connection, FrameWebsocket

TOO_MANY = {"error": "Too many requests. Try again in a minute."}


def seen_as(address: str) -> dict[str, str]:
    """Return the headers by which a proxy on this computer says who called it."""
    return {"X-Forwarded-For": address}


def answer_late(machine: Socket) -> tuple[asyncio.Semaphore, asyncio.Event]:
    """Lets a socket answer calls when it is told to. -> what is released by each call, and what lets the answers go."""
    asked, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(request: Any) -> str:
        asked.release()
        await release.wait()
        return "done"

    machine.answers["rpc-request"] = slow
    return asked, release


async def test_requests_without_a_token_are_counted_by_address(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_SIGN_IN_RATE="5")
    async with World(server.url) as world:
        body = {"publicKey": b64(os.urandom(32))}

        async def ask(address: str) -> Any:
            return await world.http.post("/v1/auth/request", json=body, headers=seen_as(address))

        # What a caller says itself stands left of what the proxy saw, so it cannot choose its address.
        answers = [await ask(f"10.0.0.{i}, 192.0.2.1") for i in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[-1].json() == TOO_MANY
        assert (await ask("192.0.2.2")).status_code == 200
        # A whole IPv6 network is one caller.
        answers = [await ask(f"2001:db8::{i}") for i in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert (await ask("2001:db8:0:1::1")).status_code == 200
        # This computer itself is not counted, nor is whoever has a token, nor what no stranger's limit is for.
        assert all([(await world.http.post("/v1/auth/request", json=body)).is_success for _ in range(20)])
        alice = await world.account()
        headers = seen_as("192.0.2.1")
        assert all([(await alice.get("/v1/machines", headers=headers)).is_success for _ in range(10)])
        assert (await world.http.get("/health", headers=headers)).is_success
        assert (await ask("192.0.2.1")).status_code == 429
        sign_in = await world.http.post("/v1/auth", json={}, headers=headers)
        assert sign_in.status_code == 429


async def test_a_rate_comes_back_with_time(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_SIGN_IN_RATE="120")
    async with World(server.url) as world:
        body, headers = {"publicKey": b64(os.urandom(32))}, seen_as("192.0.2.1")
        for _ in range(130):
            response = await world.http.post("/v1/auth/request", json=body, headers=headers)
            if response.status_code == 429:
                break
        assert response.status_code == 429
        await asyncio.sleep(1.2)  # two a second come back: a CLI that polls once a second passes for ever
        assert (await world.http.post("/v1/auth/request", json=body, headers=headers)).status_code == 200


async def test_who_is_no_trusted_proxy_cannot_name_an_address(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_SIGN_IN_RATE="2", TRUSTED_PROXIES="none")
    async with World(server.url) as world:
        for _ in range(5):
            response = await world.http.post("/v1/version", json={}, headers=seen_as("192.0.2.1"))
            assert response.status_code == 400  # it is this computer, whatever it says, and that is not counted


async def test_proxies_are_trusted_as_networks_however_many_there_are(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_SIGN_IN_RATE="2", TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8, fd00::/8")
    async with World(server.url) as world:

        async def ask(chain: str) -> int:
            return (await world.http.post("/v1/version", json={}, headers=seen_as(chain))).status_code

        # One or three proxies of ours behind the caller, and what the caller itself says before.
        chains = ["192.0.2.1", "198.51.100.1, 192.0.2.1, 10.9.8.7", "192.0.2.1, fd00::5, 10.1.1.1, 127.0.0.9"]
        assert [await ask(chain) for chain in chains] == [400, 400, 429]
        assert await ask("192.0.2.1, 192.0.2.2, 10.1.1.1") == 400
        assert await ask("192.0.2.1, 11.0.0.1") == 400  # no proxy of ours, so it is the caller


def test_addresses_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESSES_MAX", 10)
    settings = SimpleNamespace(sign_in_rate=1, trusted_proxies=())
    counted = limits.Limits(settings)  # type: ignore[arg-type]
    for i in range(100):
        counted.count_request({"client": (f"192.0.2.{i}", 1), "headers": []})
        with pytest.raises(ApiError):
            counted.count_request({"client": ("192.0.2.0", 1), "headers": []})  # who goes on asking is not forgotten
    assert len(counted._requests._left) == 10


async def test_connections_that_do_not_sign_in_are_bounded_by_address(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_STRANGER_CONNECTIONS="3")
    async with World(server.url) as world, aiohttp.ClientSession() as http:
        alice = await world.account()
        polling = f"{server.url}/v1/updates/?EIO=4&transport=polling"
        headers = seen_as("192.0.2.1")

        async def begin(address: str) -> Any:
            return await http.get(polling, headers=seen_as(address))

        first = await begin("192.0.2.1")
        for _ in range(2):
            assert (await begin("192.0.2.1")).status == 200
        assert (await begin("192.0.2.1")).status == 429
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{server.url}/v1/updates/?EIO=4&transport=websocket", headers=headers)
        assert (await begin("192.0.2.2")).status == 200
        # Signing in makes room.
        sid = json.loads((await first.text())[1:])["sid"]
        await http.post(f"{polling}&sid={sid}", data=f"40{json.dumps({'token': alice.token})}", headers=headers)
        assert (await (await http.get(f"{polling}&sid={sid}", headers=headers)).text()).startswith("40")
        assert (await begin("192.0.2.1")).status == 200
        assert (await begin("192.0.2.1")).status == 429
        # So does leaving.
        await http.post(f"{polling}&sid={sid}", data="1", headers=headers)
        async with asyncio.timeout(60):
            while (await begin("192.0.2.1")).status != 200:  # those without CONNECT are closed after 20 s
                await asyncio.sleep(0.5)


async def test_a_strangers_address_is_that_of_its_connection(start: Start) -> None:
    """python-socketio says 127.0.0.1 of everybody (REMOTE_ADDR), and this computer itself is not counted."""
    own = [address for address in addresses.reachable("0.0.0.0") if not addresses.is_loopback(address)]
    if not own:
        pytest.skip("this computer has no address but 127.0.0.1")
    server = start("--host", "0.0.0.0", HAPPY_SERVER_LIGHT_STRANGER_CONNECTIONS="2")
    port = server.url.rpartition(":")[2]
    path = "/v1/updates/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http:
        for host, status in (("127.0.0.1", 200), (own[0], 429)):
            answers = [await http.get(f"http://{host}:{port}{path}") for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 200, status]


async def test_an_accounts_sockets_calls_and_methods_are_bounded(start: Start) -> None:
    server = start(
        HAPPY_SERVER_LIGHT_ACCOUNT_SOCKETS="3", HAPPY_SERVER_LIGHT_ACCOUNT_CALLS="2",
        HAPPY_SERVER_LIGHT_ACCOUNT_METHODS="2",
    )  # fmt: skip
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        ui, machine, session = (
            await alice.socket(), await alice.socket(machine="m"), await alice.socket(session="s"),
        )  # fmt: skip
        with pytest.raises(ConnectionError, match="Too many connections"):
            await alice.socket()
        await bob.socket()
        await session.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    await alice.socket()
                    break
                except ConnectionError:
                    await asyncio.sleep(0.05)

        for method in ("a", "b", "a"):
            assert (await machine.call("rpc-register", {"method": method}))["ok"] is True
        assert await machine.call("rpc-register", {"method": "c"}) == {"ok": False, "error": "Too many methods"}
        assert (await machine.call("rpc-register", {"method": "x" * 1025}))["ok"] is False
        asked, release = answer_late(machine)
        calls = [asyncio.create_task(ui.call("rpc-call", {"method": "a"}, timeout=20)) for _ in range(2)]
        for _ in calls:
            await asked.acquire()
        assert await ui.call("rpc-call", {"method": "a"}) == {"ok": False, "error": "Too many calls are under way"}
        release.set()
        assert await asyncio.gather(*calls) == [{"ok": True, "result": "done"}] * 2
        assert await ui.call("rpc-call", {"method": "a"}) == {"ok": True, "result": "done"}


async def test_an_accounts_bodies_in_memory_are_bounded(start: Start) -> None:
    server = start(HAPPY_SERVER_LIGHT_ACCOUNT_BODIES="1000000")
    async with World(server.url) as world:
        alice = await world.account()
        body = {"tag": "t", "metadata": "x" * 1_500_000}
        for _ in range(2):
            response = await alice.post("/v1/sessions", body)
            assert (response.status_code, response.json()) == (429, TOO_MANY)
        for i in range(5):  # what was answered is let go
            await alice.session(f"{i}", "x" * 900_000)


@pytest.mark.slow
async def test_a_body_that_does_not_go_on_is_refused_and_a_slow_one_is_not(
    inside: Callable[[], Awaitable[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PERIOD", 1.0)
    monkeypatch.setattr(pace, "PERIOD_BYTES", 10)
    async with World((await inside()).url) as world:
        alice = await world.account()
        body = b'{"tag":"t","metadata":"slow"}'
        head = f"Host: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Length: {len(body)}\r\n"
        for path in ("/v1/sessions", "/v1/auth/response"):
            async with await Connection.open(world.url) as stalled:
                await stalled.send(f"POST {path} HTTP/1.1\r\n{head}Content-Type: application/json\r\n\r\n{{".encode())
                answer = await stalled.answer()
                assert (answer.status, answer.json()["statusCode"]) == (408, 408)
                assert await stalled.ended()
        async with await Connection.open(world.url) as slow:
            await slow.send(f"POST /v1/sessions HTTP/1.1\r\n{head}Content-Type: application/json\r\n\r\n".encode())
            for i in range(len(body)):
                await slow.send(body[i : i + 1])
                await asyncio.sleep(0.05)  # 1.5 s in all
            assert (await slow.answer()).json()["session"]["metadata"] == "slow"
        session = (await alice.session())["id"]
        attachment = f"/v1/sessions/{session}/attachments/{uuid.uuid4()}.enc"
        for method, path, kind in (
            ("POST", "/v1/sessions", "application/json"), ("PUT", attachment, "application/octet-stream"),
        ):  # fmt: skip
            async with await Connection.open(world.url) as trickling:
                await trickling.send(f"{method} {path} HTTP/1.1\r\n{head}Content-Type: {kind}\r\n\r\n".encode())
                answering = asyncio.ensure_future(trickling.answer())
                while not answering.done():
                    await trickling.send(b" ")  # 5 bytes a second, where 10 are asked for
                    await asyncio.wait({answering}, timeout=0.2)
                assert (await answering).status == 408


async def test_a_socket_with_many_writes_under_way_has_to_wait_and_loses_none(
    inside: Callable[[], Awaitable[Server]],
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        raw = await (await FrameWebsocket.open(world.url)).enter(alice.token)
        release = threading.Event()
        held = server.database.write_for((), lambda tx: release.wait(20))
        for i in range(3_000):
            raw.say(f'42{i}["message",{{"sid":"{session}","message":"{i}"}}]')
        waiting = -1
        while waiting < server.database.waiting:  # until it stands still
            waiting = server.database.waiting
            await asyncio.sleep(0.3)
        assert waiting == client.IN_FLIGHT_MAX
        release.set()
        assert await held
        acks: list[int] = []
        while len(acks) < 3_000:
            text = await raw.text()
            if text.startswith("43"):
                acks.append(int(text[2 : text.index("[")]))
        assert acks == list(range(3_000))
        raw.writer.close()


async def test_calls_that_wait_at_one_peer_are_bounded(
    inside: Callable[[], Awaitable[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALLS_MAX", 3)
    async with World((await inside()).url) as world:
        alice = await world.account()
        ui, machine = await alice.socket(), await alice.socket(machine="m")
        asked, release = answer_late(machine)
        await machine.call("rpc-register", {"method": "a"})
        calls = [asyncio.create_task(ui.call("rpc-call", {"method": "a"})) for _ in range(3)]
        for _ in calls:
            await asked.acquire()
        assert (await ui.call("rpc-call", {"method": "a"}))["ok"] is False
        release.set()
        assert await asyncio.gather(*calls) == [{"ok": True, "result": "done"}] * 3
