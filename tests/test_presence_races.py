"""Presence when things happen at once, with the server in this process so that a test decides the order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from happy_light.domains.presence import tracker
from happy_light.errors import ServiceUnavailable
from happy_light.server import Server
from happy_light.store import Database, Transaction
from tests.client import Account, Socket, World, uid

Inside = Callable[[], Awaitable[Server]]


def now() -> int:
    return int(time.time() * 1000)


def during_lookup(
    monkeypatch: pytest.MonkeyPatch, database: Database, meanwhile: Callable[[], Awaitable[object]]
) -> None:
    """Run `meanwhile` once, after the next lookup of an owner has read the database and before it returns."""
    original = database.read

    def read(operation: Callable[..., Any], *args: Any) -> Any:
        async def delayed() -> Any:
            result = await original(operation, *args)
            if operation.__name__ == "find_active":
                monkeypatch.undo()
                await meanwhile()
            return result

        return delayed()

    monkeypatch.setattr(database, "read", read)


async def test_a_machine_registered_during_the_lookup_is_looked_up_again(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice, machine = await world.account(), uid()
        ui, daemon = await alice.socket(), await alice.socket(machine=machine)
        await ui.wait("ephemeral")
        during_lookup(monkeypatch, server.database, lambda: alice.machine(machine))

        assert await daemon.call("machine-alive", {"machineId": machine, "time": now()}) == {"ok": True}

        events = [(name, data.get("type") or data["body"]["t"]) for name, data in await ui.heard()]
        assert events == [("update", "new-machine"), ("update", "update-machine"), ("ephemeral", "machine-activity")]


@pytest.mark.parametrize("ends", ["archive", "delete"])
async def test_a_session_that_ends_during_the_lookup_is_not_revived(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    server = await inside()
    monkeypatch.setattr(tracker, "OWNERSHIP_LIFETIME", 0.0)  # else it is known from the loading
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui, agent = await alice.socket(), await alice.socket(session=session)

        async def end() -> None:
            path = f"/v1/sessions/{session}"
            await (alice.ok("DELETE", path) if ends == "delete" else alice.ok("POST", f"{path}/archive", {}))

        during_lookup(monkeypatch, server.database, end)

        assert await agent.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}

        assert [data["active"] for _, data in await ui.heard("ephemeral")] == ([False] if ends == "archive" else [])
        await server.context.presence.flush(everything=True)
        assert await active(alice) == ({session: False} if ends == "archive" else {})


async def test_what_was_loaded_is_not_looked_up_unless_it_may_have_ended_since(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()
    looked_up: list[str] = []
    original = server.database.read

    def read(operation: Callable[..., Any], *args: Any) -> Any:
        if operation.__name__ == "find_active":
            looked_up.append(args[0].id)
        return original(operation, *args)

    monkeypatch.setattr(server.database, "read", read)
    async with World(server.url) as world:
        alice = await world.account()
        session, machine = (await alice.session("tag"))["id"], (await alice.machine())["id"]
        ui = await alice.socket()
        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
        assert await ui.call("machine-alive", {"machineId": machine, "time": now()}) == {"ok": True}
        assert looked_up == []
        await server.context.presence.flush()
        assert await active(alice) == {session: True}
        await alice.ok("POST", f"/v1/sessions/{session}/archive", {})
        await alice.session("tag")
        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
        assert looked_up == [session]
        await alice.ok("DELETE", f"/v1/sessions/{session}")
        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}


@pytest.mark.parametrize("loads", [0, 2])
async def test_ends_and_loadings_at_once_leave_no_owner_known_without_a_lookup(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, loads: int
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session("tag"))["id"]
        ui = await alice.socket()
        writes: list[str] = []
        original = server.database.write

        def write(account_id: str, operation: Callable[..., Any], *args: Any) -> Any:
            writes.append(operation.__name__)
            return original(account_id, operation, *args)

        def wait(tx: Transaction) -> None:
            while len(writes) < 3:
                time.sleep(0.005)

        monkeypatch.setattr(server.database, "write", write)
        held = server.database.write_for((), wait)  # so that the others wait together
        requests = []
        for number in range(3):
            asking = alice.session("tag") if number < loads else alice.delete(f"/v1/sessions/{session}")
            requests.append(asyncio.ensure_future(asking))
            while len(writes) <= number:
                await asyncio.sleep(0.005)
        await asyncio.gather(held, *requests)

        assert writes == ["get_or_create"] * loads + ["delete"] * (3 - loads)
        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}


async def inactive_until(ui: Socket, last: str) -> list[str]:
    """Wait until `last` is announced as inactive; return the ids of all that were by then."""
    ids: list[str] = []
    while last not in ids:
        event = await ui.wait("ephemeral")
        ids += [] if event["active"] else [event["id"]]
    return ids


async def active(account: Account) -> dict[str, bool]:
    return {row["id"]: row["active"] for row in (await account.ok("GET", "/v1/sessions"))["sessions"]}


async def test_a_session_becomes_inactive_a_grace_after_its_last_socket(inside: Inside) -> None:
    server = await inside()
    server.settings.session_grace = 0.1
    async with World(server.url) as world:
        alice = await world.account()
        kept, left, lost = [(await alice.session())["id"] for _ in range(3)]
        ui = await alice.socket()
        first, second = await alice.socket(session=kept), await alice.socket(session=kept)
        await first.close()  # its grace would end before those of the others
        await (await alice.socket(session=left)).close()
        assert await inactive_until(ui, left) == [left]
        await second.close()
        await (await alice.socket(session=lost)).close()
        assert await inactive_until(ui, lost) == [kept, lost]
        assert await active(alice) == {kept: False, left: False, lost: False}

        again = await alice.socket(session=left)
        assert await again.call("session-alive", {"sid": left, "time": now()}) == {"ok": True}
        await server.context.presence.flush()
        assert await active(alice) == {kept: False, left: True, lost: False}


async def test_a_session_that_reconnects_within_the_grace_stays_active(inside: Inside) -> None:
    server = await inside()
    server.settings.session_grace = 1.0
    async with World(server.url) as world:
        alice = await world.account()
        back, left = (await alice.session())["id"], (await alice.session())["id"]
        ui = await alice.socket()
        first, only = await alice.socket(session=back), await alice.socket(session=left)
        await first.close()
        await alice.socket(session=back)
        await only.close()  # after the other one, so that its grace ends last

        assert await inactive_until(ui, left) == [left]
        assert await active(alice) == {back: True, left: False}


async def test_heartbeats_within_the_grace_keep_a_session_active(inside: Inside) -> None:
    server = await inside()
    server.settings.session_grace = 1.0
    async with World(server.url) as world:
        alice = await world.account()
        beating, silent = (await alice.session())["id"], (await alice.session())["id"]
        ui = await alice.socket()
        sockets = [await alice.socket(session=session) for session in (beating, silent)]
        for socket in sockets:  # in this order, so that the grace of the silent one ends last
            await socket.close()

        inactive: list[str] = []
        async with asyncio.timeout(10):
            while silent not in inactive:
                await ui.call("session-alive", {"sid": beating, "time": now()})
                inactive += [data["id"] for _, data in await ui.heard("ephemeral") if not data["active"]]

        assert inactive == [silent]
        assert await active(alice) == {beating: True, silent: False}


async def test_the_first_heartbeat_after_expiry_is_written_by_the_next_flush(inside: Inside) -> None:
    server = await inside()
    presence = server.context.presence
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
        await presence.flush(everything=True)

        def fall_silent(tx: Transaction) -> None:
            tx.execute("UPDATE sessions SET active_at = ? WHERE id = ?", (tx.now - 601_000, session))

        await server.database.write_for((alice.id,), fall_silent)
        await presence.expire()
        assert [data["active"] for _, data in await ui.heard()] == [True, False]
        assert await active(alice) == {session: False}

        assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
        await presence.flush()

        assert await active(alice) == {session: True}


async def test_heartbeats_that_cannot_be_written_are_written_by_the_next_flush(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()

    async def away(*args: Any) -> None:
        raise ServiceUnavailable("the database is away")

    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        await server.database.write_for((), lambda tx: tx.execute("UPDATE sessions SET active = 0"))
        agent = await alice.socket(session=session)
        assert await agent.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
        with monkeypatch.context() as patch, pytest.raises(ServiceUnavailable):
            patch.setattr(type(server.database), "write_for", away)
            await server.context.presence.flush()
        assert await active(alice) == {session: False}
        await server.context.presence.flush()
        assert await active(alice) == {session: True}
