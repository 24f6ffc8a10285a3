"""Requests that come late, of accounts that were signed out or deleted meanwhile: 401, and nothing in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from happy_light.admin import account_admin
from happy_light.admin.progress import ignore_progress
from happy_light.bus import SignedOut
from happy_light.domains.presence import tracker
from happy_light.server import Server
from happy_light.store import Transaction
from tests.client import Account, World, b64, uid
from tests.raw_connections import Connection, FrameWebsocket

Inside = Callable[..., Awaitable[Server]]


def now() -> int:
    return int(time.time() * 1000)


async def delete(server: Server, account: Account) -> None:
    await account_admin.delete_everything(server.context, account.id, ignore_progress)


async def held(server: Server) -> threading.Event:
    """Keep the writer busy until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        release.wait(20)

    server.database.write_for((), wait)
    assert await asyncio.to_thread(begun.wait, 20)
    return release


def writes(alice: Account, session: str) -> list[tuple[str, str, Any]]:
    artifact = {"id": uid(), "header": b64("h"), "body": b64("b"), "dataEncryptionKey": b64("k")}
    return [
        ("POST", "/v1/sessions", {"tag": "late", "metadata": "m"}),
        ("POST", "/v1/machines", {"id": "late", "metadata": "m"}),
        ("POST", f"/v3/sessions/{session}/messages", {"messages": [{"content": "c", "localId": "l"}]}),
        ("POST", "/v1/artifacts", artifact),
        ("POST", "/v1/kv", {"mutations": [{"key": "k", "value": b64("v"), "version": -1}]}),
        ("POST", "/v1/push-tokens", {"token": "ExponentPushToken[x]"}),
        ("POST", "/v1/account/settings", {"settings": "s", "expectedVersion": 0}),
        ("POST", "/v1/connect/openai/register", {"token": "t"}),
        ("POST", f"/v1/sessions/{session}/archive", {}),
        ("DELETE", f"/v1/sessions/{session}", None),
    ]


@pytest.mark.parametrize("deleted", [False, True])
async def test_requests_that_wait_while_their_account_ends(
    inside: Inside, caplog: pytest.LogCaptureFixture, deleted: bool
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        for method, path, body in writes(alice, session):
            account = await world.account()
            # The deletion is queued first, so that the write finds nothing.
            release = await held(server)
            ending = asyncio.ensure_future(
                server.database.write(account.id, account_admin.delete_account)
                if deleted
                else server.database.write(account.id, account_admin.sign_out)
            )
            late = asyncio.create_task(account.request(method, path, body))
            async with asyncio.timeout(10):
                while server.database.waiting < 2:
                    await asyncio.sleep(0.005)
            release.set()
            await ending
            server.context.bus.publish(SignedOut(account.id))
            assert (await late).status_code in ((401,) if deleted else (200, 401, 404)), path
            assert (await account.request(method, path, body)).status_code == 401, path
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


async def test_reads_and_streams_under_way_while_their_account_is_deleted(
    inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        async with await Connection.open(server.url) as upload, await Connection.open(server.url) as post:
            head = f"Host: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Length: 100\r\n"
            path = f"/v1/sessions/{session}/attachments/{uid()}.enc"
            kind = "Content-Type: application/octet-stream\r\n"
            await upload.send(f"PUT {path} HTTP/1.1\r\n{head}{kind}\r\n".encode() + b"x" * 50)
            kind = "Content-Type: application/json\r\n"
            await post.send(f"POST /v1/sessions HTTP/1.1\r\n{head}{kind}\r\n".encode() + b" " * 50)
            async with asyncio.timeout(10):
                while not list(server.settings.attachments.rglob("*.enc*")):  # it is under way
                    await asyncio.sleep(0.01)
            await delete(server, alice)
            await upload.send(b"x" * 50)
            await post.send(b" " * 50)
            assert (await upload.answer()).status == 401
            assert (await post.answer()).status == 401
        assert not [path for path in server.settings.attachments.rglob("*") if path.is_file()]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


async def test_late_acks_of_sockets(inside: Inside, caplog: pytest.LogCaptureFixture) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        release = await held(server)
        ending = server.database.write(alice.id, account_admin.delete_account)
        raw.say("421" + json.dumps(["usage-report", {"key": "k", "tokens": {"total": 1}, "cost": {"total": 1}}]))
        artifact = {"id": uid(), "header": b64("h"), "body": b64("b"), "dataEncryptionKey": b64("k")}
        raw.say("422" + json.dumps(["artifact-create", artifact]))
        async with asyncio.timeout(10):
            while server.database.waiting < 3:
                await asyncio.sleep(0.005)
        release.set()
        await ending
        acks = [await raw.text(), await raw.text()]
        assert all("Invalid token" in ack for ack in acks), acks
        raw.writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text


async def test_what_an_account_does_not_have_is_muted_for_nobody(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "MUTED_MAX", 3)
    server = await inside()
    muted = server.context.presence._muted
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        socket = await alice.socket()
        for i in range(5):
            ack = await socket.call("session-end", {"sid": f"made-up-{i}", "time": now()})
            assert ack == {"ok": False, "error": "Session not found"}
            assert (await alice.post(f"/v1/sessions/made-up-{i}/archive", {})).status_code == 404
            assert (await alice.request("DELETE", f"/v1/sessions/made-up-{i}")).status_code == 404
            assert (await alice.request("DELETE", f"/v1/machines/made-up-{i}")).status_code == 404
        assert muted == {}
        own = (await bob.session())["id"]
        ended = await bob.socket(session=own)
        assert await ended.call("session-end", {"sid": own, "time": now()}) == {"ok": True}
        sessions = [(await alice.session(f"{i}"))["id"] for i in range(4)]
        for id in sessions:
            assert await socket.call("session-end", {"sid": id, "time": now()}) == {"ok": True}
        assert [key.id for key in muted[alice.id]] == sessions[1:]
        # That of another account is still muted.
        assert await ended.call("session-alive", {"sid": own, "time": now()}) == {"ok": False}


async def test_ids_on_sockets_have_at_most_256_characters(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        socket, long = await alice.socket(), "x" * 257
        for event, data in (
            ("session-alive", {"sid": long, "time": now()}),
            ("session-end", {"sid": long, "time": now()}),
            ("machine-alive", {"machineId": long, "time": now()}),
            ("message", {"sid": long, "message": "m"}),
            ("update-metadata", {"sid": long, "metadata": "m", "expectedVersion": 0}),
            ("update-state", {"sid": long, "agentState": "m", "expectedVersion": 0}),
            ("machine-update-metadata", {"machineId": long, "metadata": "m", "expectedVersion": 0}),
            ("artifact-read", {"artifactId": long}),
        ):
            assert "Invalid parameters" in json.dumps(await socket.call(event, data)) or event.startswith("update-")
        with pytest.raises(ConnectionError, match="Session ID required"):
            await alice.socket(session=long)
        with pytest.raises(ConnectionError, match="Machine ID required"):
            await alice.socket(machine=long)


async def test_name_look_ups_do_not_keep_files_waiting(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        release = threading.Event()
        loop = asyncio.get_running_loop()
        looking_up = [loop.run_in_executor(None, release.wait, 20) for _ in range(100)]
        path = f"/v1/sessions/{session}/attachments/{uid()}.enc"
        headers = {"Content-Type": "application/octet-stream"}
        async with asyncio.timeout(10):
            assert (await alice.request("PUT", path, content=b"file", headers=headers)).status_code == 200
            assert (await alice.get(path)).content == b"file"
        release.set()
        await asyncio.gather(*looking_up)
