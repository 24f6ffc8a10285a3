"""Devices: how they are recorded, and what signing out one of them ends; all others stay signed in."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from happy_light import store
from happy_light.admin import api
from happy_light.admin import devices as admin_devices
from happy_light.auth import devices
from happy_light.errors import ServiceUnavailable
from happy_light.server import Server
from happy_light.store import Transaction
from tests.client import Account, World, b64
from tests.conftest import Process
from tests.raw_connections import Connection
from tests.test_migrations import execute

Inside = Callable[..., Awaitable[Server]]
REFUSED = (401, {"error": "Invalid token"})


class Admin:
    """The admin API of a server, as the commands use it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def list(self, account: Account) -> list[dict[str, Any]]:
        """Return the devices of an account."""
        answer = await self.http.get(f"/admin/api/accounts/{account.id}/devices")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == account.id
        found: list[dict[str, Any]] = answer.json()["devices"]
        return found

    async def sign_out(self, account: Account, device: str) -> httpx.Response:
        """Sign out one device of it."""
        return await self.http.post(f"/admin/api/accounts/{account.id}/devices/{device}/sign-out")


@pytest.fixture
async def admin(server: Process) -> AsyncIterator[Admin]:
    """Return the admin API of the shared server."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.folder / api.SOCKET_NAME))
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", trust_env=False) as http:
        yield Admin(http)


def jti(account: Account) -> str:
    return str(account.claims["jti"])


async def again(account: Account) -> Account:
    """Sign in to the account once more: another device of it."""
    return await account.world.account(account.key)


async def refused(account: Account) -> bool:
    """Whether its token is not valid, on HTTP and for sockets."""
    answer = await account.get("/v1/machines")
    if answer.status_code == 200:
        await account.socket()
        return False
    assert (answer.status_code, answer.json()) == REFUSED
    with pytest.raises(ConnectionError, match="Invalid authentication token"):
        await account.socket()
    return True


async def paired(approver: Account, kind: str = "", client: str = "cli/1.2") -> tuple[Account, dict[str, Any]]:
    """Return the device that `approver` approved, and its pairing; `kind` is "" for a terminal, or "account/"."""
    world, body = approver.world, {"publicKey": b64(os.urandom(32))}
    headers = {"X-Happy-Client": client}
    await world.http.post(f"/v1/auth/{kind}request", json=body, headers=headers)
    await approver.ok("POST", f"/v1/auth/{kind}response", {**body, "response": "sealed"})
    answer = (await world.http.post(f"/v1/auth/{kind}request", json=body, headers=headers)).json()
    return Account(world, answer["token"], approver.key), body


# ---------------------------------------------------------------------------------------- recording
async def test_a_sign_in_is_recorded(world: World, admin: Admin) -> None:
    before = int(time.time() * 1000)
    alice = await world.account()
    (device,) = await admin.list(alice)
    assert device == {
        "id": jti(alice), "kind": "signature", "approvedBy": None, "client": None, "address": "127.0.0.1",
        "createdAt": device["createdAt"], "lastSeenAt": device["createdAt"],
    }  # fmt: skip
    assert before - 5 <= device["createdAt"] <= time.time() * 1000 + 5
    assert uuid.UUID(jti(alice)).version == 4


@pytest.mark.parametrize(("kind", "recorded"), [("", "terminal"), ("account/", "link")])
async def test_a_pairing_is_one_device_however_often_it_is_polled(
    world: World, admin: Admin, kind: str, recorded: str
) -> None:
    alice = await world.account()
    device, body = await paired(alice, kind)
    polls = await asyncio.gather(*(world.http.post(f"/v1/auth/{kind}request", json=body) for _ in range(5)))
    assert {jti(Account(world, poll.json()["token"], alice.key)) for poll in polls} == {jti(device)}
    row = next(row for row in await admin.list(alice) if row["id"] == jti(device))
    assert (row["kind"], row["approvedBy"], row["client"]) == (recorded, jti(alice), "cli/1.2")
    assert len(await admin.list(alice)) == 2


async def test_polls_that_arrive_together_after_the_approval_are_one_device(world: World, admin: Admin) -> None:
    alice, body = await world.account(), {"publicKey": b64(os.urandom(32))}
    await world.http.post("/v1/auth/request", json=body)
    await alice.ok("POST", "/v1/auth/response", {**body, "response": "sealed"})
    polls = await asyncio.gather(*(world.http.post("/v1/auth/request", json=body) for _ in range(8)))
    tokens = {Account(world, poll.json()["token"], alice.key).claims["jti"] for poll in polls}
    assert len(tokens) == 1 and len(await admin.list(alice)) == 2


async def test_only_what_can_be_printed_of_a_clients_name_is_kept(world: World, admin: Admin) -> None:
    alice = await world.account()
    device, _ = await paired(alice, client="a\tb" + "x" * 200)
    names = {row["id"]: row["client"] for row in await admin.list(alice)}
    assert names[jti(device)] == "ab" + "x" * 97


async def test_nobody_sees_the_devices_of_another_account(world: World, admin: Admin) -> None:
    alice, bob = await world.account(), await world.account()
    answer = await admin.sign_out(alice, jti(bob))
    assert (answer.status_code, answer.json()) == (404, {"error": "The account has no device with this id"})
    assert not await refused(bob)
    answer = await admin.http.get("/admin/api/accounts/nobody/devices")
    assert answer.status_code == 404


# ----------------------------------------------------------------------------------------- sign-out
async def test_a_sign_out_ends_one_device_and_leaves_the_others(world: World, admin: Admin) -> None:
    alice, bob = await world.account(), await world.account()
    phone = await again(alice)
    terminal, _ = await paired(phone)
    sockets = {account.token: await account.socket() for account in (alice, phone, terminal, bob)}
    for socket in sockets.values():
        await socket.heard()
    answer = await admin.sign_out(alice, jti(phone))
    assert (answer.status_code, answer.json()) == (200, {"id": alice.id, "device": jti(phone)})
    async with asyncio.timeout(10):
        await sockets[phone.token].dropped.wait()
    assert await refused(phone)
    for account in (alice, terminal, bob):
        assert await sockets[account.token].heard() == [], "nobody is told"
        assert not await refused(account)
    assert {row["id"] for row in await admin.list(alice)} == {jti(alice), jti(terminal)}
    assert (await admin.sign_out(alice, jti(phone))).status_code == 404, "it is gone"
    assert not await refused(await again(alice)), "its owner may sign in again"


async def test_a_signed_out_terminal_gets_no_token_by_polling_on(world: World, admin: Admin) -> None:
    alice = await world.account()
    terminal, body = await paired(alice)
    await admin.sign_out(alice, jti(terminal))
    assert (await world.http.post("/v1/auth/request", json=body)).json()["state"] == "requested"
    assert await refused(terminal)


async def test_what_a_signed_out_device_approved_and_nobody_picked_up_is_withdrawn(world: World, admin: Admin) -> None:
    alice = await world.account()
    phone, body = await again(alice), {"publicKey": b64(os.urandom(32))}
    await world.http.post("/v1/auth/request", json=body)
    await phone.ok("POST", "/v1/auth/response", {**body, "response": "sealed"})
    await admin.sign_out(alice, jti(phone))
    assert (await world.http.post("/v1/auth/request", json=body)).json()["state"] == "requested"
    assert len(await admin.list(alice)) == 1


async def test_a_request_under_way_is_refused(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world, await Connection.open(server.url) as connection:
        alice = await world.account()
        phone, session = await again(alice), (await alice.session())["id"]
        ui = await alice.socket()
        body = json.dumps({"messages": [{"localId": "l", "content": "c"}]}).encode()
        head = f"Host: x\r\nAuthorization: Bearer {phone.token}\r\nContent-Type: application/json\r\n"
        start = f"POST /v3/sessions/{session}/messages HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        await connection.send(start.encode() + body[:10])
        await phone.get("/v1/machines")  # by now the other request waits for the rest of its body
        assert await admin_devices.sign_out(server.context, alice.id, jti(phone))
        await connection.send(body[10:])
        answer = await connection.answer()
        assert (answer.status, answer.json()) == REFUSED
        assert await ui.heard() == []
        assert await server.database.read(lambda rx: rx.fetch_one("SELECT count(*) FROM messages")) == (0,)


@pytest.mark.parametrize("step", ["_accepts", "load"])
async def test_no_socket_is_opened_while_its_device_is_signed_out(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its token is looked up, and before its socket is in, it is signed out."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        phone = await again(alice)
        original, load = server.database.read, server.context.clients.load

        async def end() -> None:
            monkeypatch.undo()
            assert await admin_devices.sign_out(server.context, alice.id, jti(phone))

        def read(operation: Callable[..., Any], *args: Any) -> Any:
            async def meanwhile() -> Any:
                result = await original(operation, *args)
                if operation.__name__ == step:
                    await end()
                return result

            return meanwhile()

        async def loaded(account_id: str) -> None:
            await load(account_id)
            await end()

        if step == "load":
            monkeypatch.setattr(server.context.clients, "load", loaded)
        else:
            monkeypatch.setattr(server.database, "read", read)
        with pytest.raises(ConnectionError, match="Invalid authentication token"):
            await phone.socket()
        assert not server.app.live.clients
        assert await refused(phone) and not await refused(alice)


async def test_a_device_that_is_signed_out_approves_nothing(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request was authenticated, and its write comes after the sign-out."""
    server = await inside()
    async with World(server.url) as world:
        alice, body = await world.account(), {"publicKey": b64(os.urandom(32))}
        phone = await again(alice)
        await world.http.post("/v1/auth/request", json=body)
        write = server.database.write

        def late(account_id: str, operation: Callable[..., Any], *args: Any) -> Any:
            async def after_sign_out() -> Any:
                monkeypatch.undo()
                assert await admin_devices.sign_out(server.context, alice.id, jti(phone))
                return await write(account_id, operation, *args)

            return after_sign_out()

        monkeypatch.setattr(server.database, "write", late)
        answer = await phone.post("/v1/auth/response", {**body, "response": "sealed"})
        assert (answer.status_code, answer.json()) == REFUSED
        assert (await world.http.post("/v1/auth/request", json=body)).json()["state"] == "requested"


async def test_requests_of_a_known_token_read_nothing_more(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        operations: list[str] = []
        original = server.database.read

        def read(operation: Callable[..., Any], *args: Any) -> Any:
            operations.append(operation.__name__)
            return original(operation, *args)

        monkeypatch.setattr(server.database, "read", read)
        server.keys.tokens.forget(alice.id)
        for _ in range(3):
            await alice.ok("GET", "/v1/machines")
        assert operations.count("_accepts") == 1, "the device is looked up with the account, and once"


# ---------------------------------------------------------------------------------- without a record
async def test_tokens_without_a_record_are_one_device(inside: Inside) -> None:
    """Those of other servers and older versions, and those that whoever has the master secret makes."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        old = [Account(world, server.keys.tokens.signer.mint(alice.id), alice.key) for _ in range(2)]
        assert {row.id for row in await server.database.read(devices.list_devices, alice.id)} == {jti(alice)}
        assert not await refused(old[0]) and not await refused(old[1])
        await server.context.devices.flush(everything=True)
        assert {row.id for row in await server.database.read(devices.list_devices, alice.id)} == {"unknown", jti(alice)}
        assert await admin_devices.sign_out(server.context, alice.id, "unknown")
        assert await refused(old[0]) and await refused(old[1])
        assert not await refused(alice)


@pytest.mark.sqlite_only
async def test_who_signed_in_before_devices_were_recorded_stays_signed_in(inside: Inside, tmp_path: Path) -> None:
    path = tmp_path / "data" / "happy-server-light.sqlite"
    path.parent.mkdir(mode=0o700)
    execute(path, (Path(__file__).parent / "schemas" / "1.sql").read_text("utf-8"))
    execute(
        path,
        f"PRAGMA application_id = {store.APPLICATION_ID}; PRAGMA user_version = 1;"
        f"INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES ('cold', '{'0' * 64}', 1, 1);",
    )
    server = await inside()
    async with World(server.url) as world:
        old = Account(world, server.keys.tokens.signer.mint("cold"), (await world.account()).key)
        assert not await refused(old)
        (device,) = await server.database.read(devices.list_devices, "cold")
        assert (device.id, device.kind) == ("unknown", "older")
        assert await admin_devices.sign_out(server.context, "cold", "unknown")
        assert await refused(old)


# --------------------------------------------------------------------------------------- last seen
async def test_last_seen_and_client_are_written_with_the_flush(inside: Inside) -> None:
    server = await inside()

    def age(tx: Transaction) -> None:
        tx.execute("UPDATE devices SET last_seen_at = 1000, created_at = 1000")

    async def seen(account_id: str) -> dict[str, tuple[int, str | None]]:
        rows = await server.database.read(devices.list_devices, account_id)
        return {row.id: (row.last_seen_at, row.client) for row in rows}

    async with World(server.url) as world:
        alice = await world.account()
        phone, idle = await again(alice), await again(alice)
        await server.database.write_for((), age)
        await phone.socket(happyClient="app/2.0")
        await alice.ok("GET", "/v1/machines")
        assert {each[0] for each in (await seen(alice.id)).values()} == {1000}, "no request writes"
        await server.context.devices.flush()
        found = await seen(alice.id)
        assert found[jti(idle)] == (1000, None)
        assert found[jti(alice)][0] > 1000 and found[jti(phone)][0] > 1000
        assert found[jti(phone)][1] == "app/2.0"
        await server.database.write_for((), age)
        await alice.ok("GET", "/v1/machines")
        await server.context.devices.flush()
        assert (await seen(alice.id))[jti(alice)][0] == 1000, "it was written less than 10 minutes ago"
        await server.context.devices.flush(everything=True)
        assert (await seen(alice.id))[jti(phone)][0] > 1000, "it has a socket"


async def test_the_ids_of_devices_are_known_again() -> None:
    from happy_light.auth.tokens import Tokens

    tokens, others = Tokens("secret"), Tokens("another")
    id = tokens.new_device()
    assert tokens.is_device(id) and not others.is_device(id)
    assert uuid.UUID(id).version == 4
    for bad in (str(uuid.uuid4()), id.upper(), id[:-1], "", "unknown", f"{{{id}}}", id.replace("-", "")):
        assert not tokens.is_device(bad), bad


async def test_what_a_flush_cannot_write_is_written_by_the_next(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()

    async def seen(account_id: str) -> list[tuple[bool, str | None]]:
        rows = await server.database.read(devices.list_devices, account_id)
        return [(row.last_seen_at > 1000, row.client) for row in rows]

    async def away(*args: Any) -> None:
        raise ServiceUnavailable("the database is away")

    async with World(server.url) as world:
        alice = await world.account()
        await server.database.write_for((), lambda tx: tx.execute("UPDATE devices SET last_seen_at = 1000"))
        socket = await alice.socket(happyClient="app/2.0")
        await socket.close()
        await alice.ok("GET", "/v1/machines")
        phone = await alice.socket(happyClient="app/2.0")
        with monkeypatch.context() as patch, pytest.raises(ServiceUnavailable):
            patch.setattr(type(server.database), "write_for", away)
            await server.context.devices.flush()
        await phone.close()
        assert await seen(alice.id) == [(False, None)]
        await server.context.devices.flush()
        assert await seen(alice.id) == [(True, "app/2.0")]
