"""Machines: registration per account, versioned values, lists and deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.client import World, b64, uid

FIELDS = {
    "id", "metadata", "metadataVersion", "daemonState", "daemonStateVersion", "dataEncryptionKey", "active",
    "activeAt", "createdAt", "updatedAt",
}  # fmt: skip


async def test_a_new_machine_is_announced_twice(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    id = uid()
    ui, mine, other = await alice.socket(), await alice.socket(machine=id), await alice.socket(machine=uid())
    stranger = await bob.socket()
    for socket in (ui, mine, other):
        await socket.heard()

    machine = await alice.machine(id, "meta", daemonState="state", dataEncryptionKey=b64(b"key"))

    assert machine.keys() == FIELDS
    assert (machine["id"], machine["active"]) == (id, False)
    assert (machine["metadata"], machine["metadataVersion"]) == ("meta", 1)
    assert (machine["daemonState"], machine["daemonStateVersion"]) == ("state", 1)
    assert machine["dataEncryptionKey"] == b64(b"key")
    first, second = await ui.updates()
    body = {key: value for key, value in machine.items() if key != "id"}
    assert first == {"t": "new-machine", "machineId": id, "seq": 0, **body}
    assert second == {"t": "update-machine", "machineId": id, "metadata": {"value": "meta", "version": 1}}
    assert await mine.updates() == [second]
    assert await other.heard() == await stranger.heard() == []


@pytest.mark.parametrize("state", [None, ""])
async def test_an_empty_daemon_state_counts_as_none(world: World, state: str | None) -> None:
    machine = await (await world.account()).machine(daemonState=state)
    assert (machine["daemonState"], machine["daemonStateVersion"]) == (None, 0)


async def test_registering_an_existing_machine_changes_nothing_and_is_not_announced(world: World) -> None:
    alice = await world.account()
    first = await alice.machine("m", "first")
    ui = await alice.socket()
    again = await alice.machine("m", "second", daemonState="x", dataEncryptionKey=b64(b"k"))
    assert again == first
    assert await ui.heard() == []


async def test_two_accounts_may_use_one_computer(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    id = uid()
    await alice.machine(id, "alice")
    await bob.machine(id, "bob")
    assert (await alice.ok("GET", f"/v1/machines/{id}"))["machine"]["metadata"] == "alice"
    assert (await bob.ok("GET", f"/v1/machines/{id}"))["machine"]["metadata"] == "bob"
    assert await alice.ok("DELETE", f"/v1/machines/{id}") == {"success": True}
    assert (await bob.ok("GET", f"/v1/machines/{id}"))["machine"]["metadata"] == "bob"


async def test_concurrent_registration_of_one_id_makes_one_machine(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    machines = await asyncio.gather(*(alice.machine("m", f"{i}") for i in range(10)))
    assert all(machine == machines[0] for machine in machines)
    assert [body["t"] for body in await ui.updates()] == ["new-machine", "update-machine"]


async def test_the_list_is_an_array_latest_active_first(world: World) -> None:
    alice = await world.account()
    a, b = [await alice.machine() for _ in range(2)]
    ui = await alice.socket()
    await asyncio.sleep(0.002)
    update = {"machineId": a["id"], "daemonState": "s", "expectedVersion": 0}
    assert (await ui.call("machine-update-state", update))["result"] == "success"
    machines = await alice.ok("GET", "/v1/machines")
    assert [machine["id"] for machine in machines] == [a["id"], b["id"]]
    assert machines[0].keys() == FIELDS | {"seq"}
    assert machines[0]["active"] is True
    assert machines[0]["activeAt"] > a["activeAt"]
    assert (await alice.ok("GET", f"/v1/machines/{a['id']}"))["machine"] == machines[0]
    assert await (await world.account()).ok("GET", "/v1/machines") == []


async def test_metadata_and_state_are_written_by_version(world: World) -> None:
    alice = await world.account()
    id = (await alice.machine(metadata="old"))["id"]
    ui, daemon, other = await alice.socket(), await alice.socket(machine=id), await alice.socket(machine=uid())
    for socket in (ui, daemon, other):
        await socket.heard()

    good = await daemon.call("machine-update-metadata", {"machineId": id, "metadata": "new", "expectedVersion": 1})
    stale = await daemon.call("machine-update-metadata", {"machineId": id, "metadata": "late", "expectedVersion": 1})
    state = await daemon.call("machine-update-state", {"machineId": id, "daemonState": "run", "expectedVersion": 0})
    late = await daemon.call("machine-update-state", {"machineId": id, "daemonState": "late", "expectedVersion": 0})

    assert good == {"result": "success", "version": 2, "metadata": "new"}
    assert stale == {"result": "version-mismatch", "version": 2, "metadata": "new"}
    assert state == {"result": "success", "version": 1, "daemonState": "run"}
    assert late == {"result": "version-mismatch", "version": 1, "daemonState": "run"}
    bodies = [
        {"t": "update-machine", "machineId": id, "metadata": {"value": "new", "version": 2}},
        {"t": "update-machine", "machineId": id, "daemonState": {"value": "run", "version": 1}},
    ]
    assert await ui.updates() == await daemon.updates() == bodies
    assert await other.heard() == []


@pytest.mark.parametrize("event", ["machine-update-metadata", "machine-update-state"])
async def test_an_invalid_or_unknown_update_gets_an_error_ack(world: World, event: str) -> None:
    alice, mallory = await world.account(), await world.account()
    id = (await alice.machine())["id"]
    ui, evil = await alice.socket(), await mallory.socket()
    values: list[Any] = [None, 5, [], {}, {"machineId": id}, {"machineId": id, "metadata": 5, "daemonState": 5}]
    for value in values:
        assert await ui.call(event, value) == {"result": "error", "message": "Invalid parameters"}
    data = {"machineId": id, "metadata": "x", "daemonState": "x", "expectedVersion": 1}
    assert await evil.call(event, data) == {"result": "error", "message": "Machine not found"}
    assert (await alice.ok("GET", f"/v1/machines/{id}"))["machine"]["metadata"] == "meta"


async def test_delete_is_announced_and_keeps_sessions(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    id, session = (await alice.machine())["id"], (await alice.session())["id"]
    ui = await alice.socket()
    for response in (await mallory.delete(f"/v1/machines/{id}"), await mallory.get(f"/v1/machines/{id}")):
        assert (response.status_code, response.json()) == (404, {"error": "Machine not found"})

    assert await alice.ok("DELETE", f"/v1/machines/{id}") == {"success": True}

    assert await ui.updates() == [{"t": "delete-machine", "machineId": id}]
    again = await alice.delete(f"/v1/machines/{id}")
    assert (again.status_code, again.json()) == (404, {"error": "Machine not found"})
    assert await ui.heard() == []
    assert [row["id"] for row in (await alice.ok("GET", "/v1/sessions"))["sessions"]] == [session]
    assert (await alice.machine(id, "anew"))["metadata"] == "anew"


@pytest.mark.parametrize("body", [{}, {"id": "m"}, {"metadata": "m"}, {"id": "", "metadata": "m"}, {"id": 5,
                         "metadata": "m"}, {"id": "m", "metadata": "m", "dataEncryptionKey": "%"}])  # fmt: skip
async def test_invalid_machines_are_rejected(world: World, body: Any) -> None:
    alice = await world.account()
    assert (await alice.post("/v1/machines", body)).status_code == 400
    assert await alice.ok("GET", "/v1/machines") == []


async def test_the_documented_routes_write_metadata_and_state_by_version(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    id = (await alice.machine(metadata="m1"))["id"]
    path = f"/v1/machines/{id}"
    ui, mine, other = await alice.socket(), await alice.socket(machine=id), await alice.socket(machine=uid())
    await ui.heard()

    metadata, state = {"metadata": "m2", "expectedVersion": 1}, {"daemonState": "s1", "expectedVersion": 0}
    assert await alice.ok("POST", path + "/metadata", metadata) == {"success": True, "version": 2}
    assert await alice.ok("POST", path + "/state", state) == {"success": True, "version": 1}
    stale = {"success": False, "error": "version-mismatch"}
    assert await alice.ok("POST", path + "/metadata", metadata) == {
        **stale, "currentVersion": 2, "currentMetadata": "m2",
    }  # fmt: skip
    assert await alice.ok("POST", path + "/state", state) == {**stale, "currentVersion": 1, "currentDaemonState": "s1"}

    assert await ui.updates() == await mine.updates() == [
        {"t": "update-machine", "machineId": id, "metadata": {"value": "m2", "version": 2}},
        {"t": "update-machine", "machineId": id, "daemonState": {"value": "s1", "version": 1}},
    ]  # fmt: skip
    assert await other.heard() == []
    machine = (await alice.ok("GET", path))["machine"]
    assert (machine["active"], machine["metadata"], machine["daemonState"]) == (True, "m2", "s1")
    for change in (
        {},
        {"metadata": "x"},
        {"metadata": 5, "expectedVersion": 2},
        {"metadata": "x", "expectedVersion": -1},
    ):
        assert (await alice.post(path + "/metadata", change)).status_code == 400
    states: list[dict[str, Any]] = [{}, {"daemonState": "x"}, {"daemonState": None, "expectedVersion": 1}]
    for state in states:
        assert (await alice.post(path + "/state", state)).status_code == 400
    for response in (
        await mallory.post(path + "/metadata", {"metadata": "x", "expectedVersion": 2}),
        await mallory.post(path + "/state", {"daemonState": "x", "expectedVersion": 1}),
    ):
        assert (response.status_code, response.json()) == (404, {"error": "Machine not found"})
    assert (await alice.ok("GET", path))["machine"] == machine
    assert await ui.heard() == await mine.heard() == []
