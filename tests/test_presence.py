"""Presence: heartbeats, disconnects and silence make sessions and machines active or inactive."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from happy_light.bus import Bus, Ephemeral
from happy_light.domains.presence.operations import Key, expire_silent, find_silent
from happy_light.store import Database, SqliteEngine, Transaction
from tests.client import Account, World, uid
from tests.conftest import Start


def now() -> int:
    return int(time.time() * 1000)


async def session_row(account: Account, id: str) -> Any:
    rows = (await account.ok("GET", "/v1/sessions"))["sessions"]
    return next(row for row in rows if row["id"] == id)


async def until(account: Account, id: str, active: bool, seconds: float = 15) -> Any:
    """Wait until the database has the session active or not, and return its row."""
    async with asyncio.timeout(seconds):
        while (row := await session_row(account, id))["active"] is not active:
            await asyncio.sleep(0.05)
    return row


async def test_a_heartbeat_reaches_user_scoped_sockets_and_its_sender(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, mine, bob = await alice.socket(), await alice.socket(session=session), await (await world.account()).socket()

    at = now() - 5
    assert await ui.call("session-alive", {"sid": session, "time": at, "thinking": True}) == {"ok": True}
    assert await mine.call("session-alive", {"sid": session, "time": at}) == {"ok": True}

    first, second = await ui.heard()
    activity = {"type": "activity", "id": session, "active": True, "activeAt": at}
    assert first == ("ephemeral", {**activity, "thinking": True})
    assert second == ("ephemeral", {**activity, "thinking": False})
    assert await mine.heard() == await bob.heard() == []


async def test_a_heartbeat_needs_no_ack(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui = await alice.socket()
    await ui.emit("session-alive", {"sid": session, "time": now(), "thinking": False, "mode": "local"})
    assert (await ui.wait("ephemeral"))["id"] == session


async def test_future_times_count_as_now_and_old_heartbeats_are_ignored(world: World) -> None:
    alice = await world.account()
    session, machine = (await alice.session())["id"], (await alice.machine())["id"]
    ui = await alice.socket()
    for event, name, id in (("session-alive", "sid", session), ("machine-alive", "machineId", machine)):
        assert await ui.call(event, {name: id, "time": now() + 3_600_000}) == {"ok": True}
        ((_, body),) = await ui.heard()
        assert abs(body["activeAt"] - now()) < 60_000
        for old in (now() - 601_000, 0, -5, -1e300):
            assert await ui.call(event, {name: id, "time": old}) == {"ok": False}
        assert (await ui.call(event, {name: id, "time": 1e300})) == {"ok": True}
        assert len(await ui.heard()) == 1
    assert (await ui.call("session-end", {"sid": session, "time": now() - 601_000}))["ok"] is False
    assert (await session_row(alice, session))["active"] is True


@pytest.mark.parametrize("event", ["session-alive", "session-end", "machine-alive"])
@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"sid": "x"}, {"machineId": "x"},
                                  {"sid": 5, "machineId": 5, "time": 1}, {"sid": "x", "machineId": "x", "time": "1"},
                                  {"sid": "x", "machineId": "x", "time": None}])  # fmt: skip
async def test_an_invalid_heartbeat_gets_an_error_ack(world: World, event: str, data: Any) -> None:
    ui = await (await world.account()).socket()
    assert await ui.call(event, data) == {"ok": False, "error": "Invalid parameters"}
    assert await ui.heard() == []


async def test_a_machine_is_active_from_its_first_to_its_last_socket(world: World) -> None:
    alice = await world.account()
    ui, id = await alice.socket(), uid()  # a machine that is not registered counts too
    first = await alice.socket(machine=id)
    online = await ui.wait("ephemeral")
    assert online == {"type": "machine-activity", "id": id, "active": True, "activeAt": online["activeAt"]}
    second = await alice.socket(machine=id)
    assert (await ui.wait("ephemeral"))["active"] is True
    await first.close()
    await second.call("ping")
    assert await ui.heard() == []
    await second.close()
    offline = await ui.wait("ephemeral")
    assert offline == {"type": "machine-activity", "id": id, "active": False, "activeAt": offline["activeAt"]}


async def test_late_heartbeats_do_not_revive_an_ended_session_until_it_is_loaded_again(world: World) -> None:
    alice = await world.account()
    session = (await alice.session("tag"))["id"]
    ui, mine = await alice.socket(), await alice.socket(session=session)
    at = now()
    assert await mine.call("session-end", {"sid": session, "time": at}) == {"ok": True}
    body = {"type": "activity", "id": session, "active": False, "activeAt": at, "thinking": False}
    assert await ui.heard() == [("ephemeral", body)]
    assert (await session_row(alice, session))["active"] is False

    assert await mine.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}
    assert await ui.heard() == []
    assert (await alice.session("tag"))["active"] is False
    assert await mine.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
    assert len(await ui.heard()) == 1
    await until(alice, session, True)


async def test_a_heartbeat_after_archive_does_not_revive_the_session(world: World) -> None:
    alice = await world.account()
    session = (await alice.session("tag"))["id"]
    ui, agent = await alice.socket(), await alice.socket(session=session)
    assert await agent.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
    await alice.ok("POST", f"/v1/sessions/{session}/archive", {})
    await ui.heard()

    assert await agent.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}

    assert await ui.heard() == []
    assert (await session_row(alice, session))["active"] is False
    await alice.session("tag")
    await ui.heard()
    assert await agent.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}


async def test_the_first_heartbeat_of_an_inactive_session_is_written_soon(world: World) -> None:
    alice = await world.account()
    session = (await alice.session("tag"))["id"]
    ui = await alice.socket()
    await alice.ok("POST", f"/v1/sessions/{session}/archive", {})
    await alice.session("tag")
    at = now()
    assert await ui.call("session-alive", {"sid": session, "time": at}) == {"ok": True}
    row = await until(alice, session, True)
    assert row["activeAt"] == at


async def test_heartbeats_of_a_deleted_session_or_machine_are_ignored_at_once(world: World) -> None:
    alice = await world.account()
    session, machine = (await alice.session())["id"], (await alice.machine())["id"]
    ui = await alice.socket()
    assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": True}
    assert await ui.call("machine-alive", {"machineId": machine, "time": now()}) == {"ok": True}
    await alice.ok("DELETE", f"/v1/sessions/{session}")
    await alice.ok("DELETE", f"/v1/machines/{machine}")
    await ui.heard()
    assert await ui.call("session-alive", {"sid": session, "time": now()}) == {"ok": False}
    assert await ui.call("machine-alive", {"machineId": machine, "time": now()}) == {"ok": False}
    assert await ui.call("session-alive", {"sid": "no such", "time": now()}) == {"ok": False}
    assert await ui.heard() == []
    await alice.machine(machine)
    await ui.heard()
    assert await ui.call("machine-alive", {"machineId": machine, "time": now()}) == {"ok": True}


async def test_pending_heartbeats_are_written_when_the_server_stops(start: Start) -> None:
    server = start()
    async with World(server.url) as world:
        alice = await world.account()
        machine = (await alice.machine())["id"]
        ui = await alice.socket()
        await ui.call("machine-alive", {"machineId": machine, "time": now()})
        at = now()
        await ui.call("machine-alive", {"machineId": machine, "time": at})
        assert server.stop() == 0
    server = start()
    async with World(server.url) as world:
        row = (await (await world.account(alice.key)).ok("GET", "/v1/machines"))[0]
        assert (row["active"], row["activeAt"]) == (True, at)


async def test_ten_minutes_without_heartbeats_make_inactive_and_are_announced(tmp_path: Path) -> None:
    bus = Bus()
    heard: list[Any] = []
    bus.subscribe(Ephemeral, heard.append)
    store = Database(SqliteEngine(tmp_path / "db"), bus)
    await store.open()

    def fill(tx: Transaction) -> None:
        tx.execute("INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES ('a', 'k', 0, 0)")
        for id, at in (("silent", tx.now - 601_000), ("alive", tx.now - 599_000)):
            tx.execute(
                "INSERT INTO sessions (id, account_id, tag, metadata, active, active_at, created_at, updated_at) "
                "VALUES (?, 'a', ?, 'm', 1, ?, 7, 7)", (id, id, at),
            )  # fmt: skip
            tx.execute(
                "INSERT INTO machines (id, account_id, metadata, active, active_at, created_at, updated_at) "
                "VALUES (?, 'a', 'm', 1, ?, 7, 7)", (id, at),
            )  # fmt: skip

    try:
        await store.write_for((), fill)
        silent = [("session", "a", "silent"), ("machine", "a", "silent")]
        found = await store.read(find_silent)
        assert found == silent
        assert await store.write_for({"a"}, expire_silent, [*found, Key("session", "a", "alive")]) == silent
        assert await store.write_for({"a"}, expire_silent, found) == []
        assert await store.read(find_silent) == []
        rows = await store.read(
            lambda rx: rx.fetch_all("SELECT id, active, updated_at FROM sessions UNION ALL "
                              "SELECT id, active, updated_at FROM machines")
        )  # fmt: skip
        assert rows == [("silent", 0, 7), ("alive", 1, 7)] * 2
        assert [type(event) for event in heard] == [Ephemeral, Ephemeral]
        assert [event.body.active for event in heard] == [False, False]
    finally:
        await store.close()
