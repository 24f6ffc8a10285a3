"""Machines own the sessions that they publish: deleted with them, and remembered as deleted."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from happy_light.bus import Bus
from happy_light.domains import deleted_machines
from happy_light.store import Database, ReadTransaction, SqliteEngine, Transaction
from tests.client import Account, World
from tests.conftest import Process
from tests.stores import add_account

OCTETS = {"Content-Type": "application/octet-stream"}
DELETED = {"code": "machine_deleted", "error": "Machine was deleted from this account"}


async def listed(account: Account) -> set[str]:
    return {session["id"] for session in (await account.ok("GET", "/v1/sessions"))["sessions"]}


async def test_a_machine_is_deleted_with_its_sessions(world: World, server: Process) -> None:
    alice, bob = await world.account(), await world.account()
    machine, other = (await alice.machine())["id"], (await alice.machine())["id"]
    owned = sorted([(await alice.session(machineId=machine))["id"] for _ in range(2)])
    kept = {(await alice.session(machineId=other))["id"], (await alice.session())["id"]}
    await bob.machine(machine)
    theirs = (await bob.session(machineId=machine))["id"]
    await alice.send(owned[0], "l1", "l2")
    upload = await alice.ok("POST", f"/v1/sessions/{owned[0]}/attachments/request-upload", {"filename": "f", "size": 1})
    await alice.ok("PUT", upload["uploadUrl"], content=b"x", headers=OCTETS)
    assert (server.folder / "attachments" / "sessions" / owned[0]).is_dir()
    ui, own, second = await alice.socket(), await alice.socket(machine=machine), await alice.socket(machine=other)
    session_socket, stranger = await alice.socket(session=owned[0]), await bob.socket(machine=machine)
    for socket in (ui, own, second, session_socket, stranger):
        await socket.heard()

    assert await alice.ok("DELETE", f"/v1/machines/{machine}") == {"success": True}

    gone = {"t": "delete-machine", "machineId": machine}
    assert await ui.updates() == [*({"t": "delete-session", "sid": id} for id in owned), gone]
    assert await own.updates() == [gone]
    for socket in (second, session_socket, stranger):
        assert await socket.heard("update") == []
    assert await listed(alice) == kept
    for path in (f"/v3/sessions/{owned[0]}/messages", f"/v1/sessions/{owned[1]}", f"/v1/machines/{machine}"):
        assert (await alice.get(path)).status_code == 404
    assert not (server.folder / "attachments" / "sessions" / owned[0]).exists()
    assert await listed(bob) == {theirs}
    await bob.ok("GET", f"/v1/machines/{machine}")


async def test_heartbeats_of_what_was_deleted_do_nothing(world: World) -> None:
    alice = await world.account()
    machine = (await alice.machine())["id"]
    session = (await alice.session(machineId=machine))["id"]
    daemon, own = await alice.socket(machine=machine), await alice.socket(session=session)
    now = time.time() * 1000
    assert await daemon.call("machine-alive", {"machineId": machine, "time": now}) == {"ok": True}
    assert await own.call("session-alive", {"sid": session, "time": now}) == {"ok": True}
    ui = await alice.socket()
    await alice.ok("DELETE", f"/v1/machines/{machine}")
    assert [body["t"] for body in await ui.updates()] == ["delete-session", "delete-machine"]

    assert await daemon.call("machine-alive", {"machineId": machine, "time": now}) == {"ok": False}
    assert await own.call("session-alive", {"sid": session, "time": now}) == {"ok": False}
    state = {"machineId": machine, "daemonState": "s", "expectedVersion": 0}
    metadata = {"machineId": machine, "metadata": "m", "expectedVersion": 1}
    for event, data in (("machine-update-state", state), ("machine-update-metadata", metadata)):
        assert await daemon.call(event, data) == {"result": "error", "message": "Machine not found"}
    assert await ui.heard() == []
    assert await alice.ok("GET", "/v1/machines") == []
    assert await listed(alice) == set()


async def test_sessions_of_a_machine_that_is_not_registered(world: World) -> None:
    alice = await world.account()
    session = (await alice.session(machineId="m"))["id"]
    ui = await alice.socket()
    assert await alice.ok("DELETE", "/v1/machines/m") == {"success": True}
    assert await ui.updates() == [{"t": "delete-session", "sid": session}, {"t": "delete-machine", "machineId": "m"}]
    again = await alice.delete("/v1/machines/m")
    assert (again.status_code, again.json()) == (404, {"error": "Machine not found"})
    # It was not registered, so no deletion is remembered.
    assert (await alice.machine("m", failIfDeleted=True))["id"] == "m"


async def test_the_machine_of_a_session_is_set_silently_and_never_shown(world: World) -> None:
    alice = await world.account()
    session = await alice.session("t")
    ui, own = await alice.socket(), await alice.socket(session=session["id"])
    await own.heard()
    for more in ({"machineId": "first"}, {"machineId": "second"}, {"machineId": None}, {}):
        assert await alice.session("t", "other", **more) == session
    assert "machineId" not in session
    assert await ui.heard() == await own.heard() == []
    assert (await alice.delete("/v1/machines/first")).status_code == 404
    assert await listed(alice) == {session["id"]}
    await alice.ok("DELETE", "/v1/machines/second")
    assert await listed(alice) == set()


@pytest.mark.parametrize("machine", [5, {}, [], True])
async def test_a_machine_that_is_no_text_is_rejected(world: World, machine: Any) -> None:
    alice = await world.account()
    answer = await alice.post("/v1/sessions", {"tag": "t", "metadata": "m", "machineId": machine})
    assert answer.status_code == 400
    assert await listed(alice) == set()


async def test_others_cannot_delete_a_machine_or_its_sessions(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    machine = (await alice.machine())["id"]
    session = (await alice.session(machineId=machine))["id"]
    ui = await alice.socket()
    answer = await mallory.delete(f"/v1/machines/{machine}")
    assert (answer.status_code, answer.json()) == (404, {"error": "Machine not found"})
    assert await listed(alice) == {session}
    assert await ui.heard() == []
    await alice.machine(machine, failIfDeleted=True)


# ------------------------------------------------------------------------------- remembered deletions
async def test_a_deleted_machine_is_refused_if_asked(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    machine = (await alice.machine())["id"]
    assert (await alice.machine(machine, failIfDeleted=True))["metadata"] == "meta"
    await alice.ok("DELETE", f"/v1/machines/{machine}")
    ui = await alice.socket()

    answer = await alice.post("/v1/machines", {"id": machine, "metadata": "new", "failIfDeleted": True})
    assert (answer.status_code, answer.json()) == (410, DELETED)
    assert (await alice.get(f"/v1/machines/{machine}")).status_code == 404
    assert await ui.heard() == []
    assert (await bob.machine(machine, failIfDeleted=True))["id"] == machine

    assert (await alice.machine(machine, "back"))["metadata"] == "back"
    assert [body["t"] for body in await ui.updates()] == ["new-machine", "update-machine"]
    assert (await alice.machine(machine, failIfDeleted=True))["metadata"] == "back"
    await alice.ok("DELETE", f"/v1/machines/{machine}")
    answer = await alice.post("/v1/machines", {"id": machine, "metadata": "new", "failIfDeleted": True})
    assert (answer.status_code, answer.json()) == (410, DELETED)


@pytest.mark.parametrize("flag", ["yes", 1, None])
async def test_a_flag_that_is_not_a_boolean_is_rejected(world: World, flag: Any) -> None:
    answer = await (await world.account()).post("/v1/machines", {"id": "m", "metadata": "m", "failIfDeleted": flag})
    assert answer.status_code == 400


async def test_a_race_of_deletion_and_registration(world: World) -> None:
    """Whichever comes first, the machine is there exactly if the registration was answered after the deletion."""
    alice = await world.account()
    for _ in range(10):
        machine = (await alice.machine())["id"]
        body = {"id": machine, "metadata": "new", "failIfDeleted": True}
        deleted, registered = await asyncio.gather(
            alice.delete(f"/v1/machines/{machine}"), alice.post("/v1/machines", body)
        )
        assert deleted.status_code == 200
        assert registered.status_code in (200, 410)
        if registered.status_code == 200:
            assert registered.json()["machine"]["metadata"] == "meta"
        assert (await alice.get(f"/v1/machines/{machine}")).status_code == 404


async def test_remembered_deletions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one of the account is forgotten, and none of another account."""
    monkeypatch.setattr(deleted_machines, "REMEMBERED_MAX", 3)
    database = Database(SqliteEngine(tmp_path / "db"), Bus())
    await database.open()

    def remember(tx: Transaction, account: str, machine: str, now: int) -> None:
        tx.now = now
        deleted_machines.remember(tx, account, machine)

    def remembered(tx: ReadTransaction, account: str) -> set[str]:
        return {name for name in "abcde" if deleted_machines.is_remembered(tx, account, name)}

    for account in ("alice", "bob"):
        await database.write_for((), add_account, account)
    await database.write("bob", remember, "a", 0)
    for now, machine in enumerate("abcadbe"):
        await database.write("alice", remember, machine, now)
    assert await database.read(remembered, "alice") == set("dbe")
    assert await database.read(remembered, "bob") == {"a"}
    await database.close()
