"""Access keys: one for each session on a machine, both owned by the caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.client import Account, World, uid

NEITHER = {"error": "Session or machine not found"}
NONE = {"error": "Access key not found"}


async def pair(account: Account) -> tuple[str, str, str]:
    """Return a session, a machine, and the path of their key."""
    session, machine = (await account.session())["id"], (await account.machine())["id"]
    return session, machine, f"/v1/access-keys/{session}/{machine}"


async def test_a_key_is_stored_once_and_replaced_by_version(world: World) -> None:
    alice = await world.account()
    session, machine, path = await pair(alice)
    ui, daemon = await alice.socket(), await alice.socket(machine=machine)
    await ui.heard()

    assert await alice.ok("GET", path) == {"accessKey": None}
    early = await alice.put(path, {"data": "x", "expectedVersion": 1})
    assert (early.status_code, early.json()) == (404, NONE)
    created = await alice.ok("POST", path, {"data": "d1 ü"})
    key = created["accessKey"]
    assert created == {"success": True, "accessKey": key}
    assert key == {"data": "d1 ü", "dataVersion": 1, "createdAt": key["createdAt"], "updatedAt": key["createdAt"]}
    assert await alice.ok("GET", path) == {"accessKey": key}
    again = await alice.post(path, {"data": "d2"})
    assert (again.status_code, again.json()) == (409, {"error": "Access key already exists"})
    assert await alice.ok("PUT", path, {"data": "", "expectedVersion": 1}) == {"success": True, "version": 2}
    stale = {"success": False, "error": "version-mismatch", "currentVersion": 2, "currentData": ""}
    assert await alice.ok("PUT", path, {"data": "d3", "expectedVersion": 1}) == stale
    ack = await daemon.call("access-key-get", {"sessionId": session, "machineId": machine})
    assert ack == {"ok": True, **await alice.ok("GET", path)}
    assert (ack["accessKey"]["data"], ack["accessKey"]["dataVersion"]) == ("", 2)
    assert await ui.heard() == await daemon.heard() == []


async def test_one_of_many_concurrent_writers_wins(world: World) -> None:
    alice = await world.account()
    _, _, path = await pair(alice)
    posts = await asyncio.gather(*(alice.post(path, {"data": f"d{i}"}) for i in range(6)))
    assert sorted(response.status_code for response in posts) == [200] + [409] * 5

    puts = [alice.ok("PUT", path, {"data": f"e{i}", "expectedVersion": 1}) for i in range(6)]
    answers = await asyncio.gather(*puts)

    assert [answer["success"] for answer in answers].count(True) == 1
    data = (await alice.ok("GET", path))["accessKey"]["data"]
    for answer in answers:
        if not answer["success"]:
            assert (answer["currentVersion"], answer["currentData"]) == (2, data)


async def test_session_and_machine_must_both_belong_to_the_caller(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session, machine, path = await pair(alice)
    his_session, his_machine, _ = await pair(mallory)
    await alice.ok("POST", path, {"data": "hers"})
    evil = await mallory.socket()
    await evil.heard()

    for one, other in ((session, machine), (his_session, machine), (session, his_machine), ("none", his_machine),
                       (his_session, "none")):  # fmt: skip
        his_path = f"/v1/access-keys/{one}/{other}"
        for response in (await mallory.get(his_path), await mallory.post(his_path, {"data": "x"})):
            assert (response.status_code, response.json()) == (404, NEITHER)
        put = await mallory.put(his_path, {"data": "x", "expectedVersion": 1})
        assert (put.status_code, put.json()) == (404, NONE)
        ack = await evil.call("access-key-get", {"sessionId": one, "machineId": other})
        assert ack == {"ok": False, **NEITHER}
    assert (await alice.ok("GET", path))["accessKey"]["data"] == "hers"


async def test_two_accounts_on_one_computer_have_keys_of_their_own(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    machine = uid()
    for account in (alice, bob):
        await account.machine(machine)
        session = (await account.session())["id"]
        await account.ok("POST", f"/v1/access-keys/{session}/{machine}", {"data": account.id})
        key = (await account.ok("GET", f"/v1/access-keys/{session}/{machine}"))["accessKey"]
        assert key["data"] == account.id


@pytest.mark.parametrize("what", ["sessions", "machines"])
async def test_a_key_is_deleted_with_its_session_or_machine(world: World, what: str) -> None:
    alice = await world.account()
    session, machine, path = await pair(alice)
    await alice.ok("POST", path, {"data": "d"})
    await alice.ok("DELETE", f"/v1/{what}/{session if what == 'sessions' else machine}")
    gone = await alice.get(path)
    assert (gone.status_code, gone.json()) == (404, NEITHER)
    if what == "machines":
        await alice.machine(machine)
        assert await alice.ok("GET", path) == {"accessKey": None}


@pytest.mark.parametrize("body", [
    {}, {"data": "d"}, {"expectedVersion": 1}, {"data": 5, "expectedVersion": 1}, {"data": None, "expectedVersion": 1},
    {"data": "d", "expectedVersion": -1}, {"data": "d", "expectedVersion": "1"}, {"data": "d", "expectedVersion": 1.5},
    {"data": "d", "expectedVersion": 10**30},
])  # fmt: skip
async def test_invalid_bodies_are_rejected(world: World, body: dict[str, Any]) -> None:
    alice = await world.account()
    _, _, path = await pair(alice)
    assert (await alice.put(path, body)).status_code == 400
    if not isinstance(body.get("data"), str):
        assert (await alice.post(path, body)).status_code == 400
    assert await alice.ok("GET", path) == {"accessKey": None}


@pytest.mark.parametrize("data", [None, 5, [], {}, {"sessionId": "x"}, {"sessionId": "", "machineId": ""},
                                  {"sessionId": 5, "machineId": "x"}])  # fmt: skip
async def test_an_invalid_socket_request_gets_an_error_ack(world: World, data: Any) -> None:
    alice = await world.account()
    ui = await alice.socket()
    ack = await ui.call("access-key-get", data)
    assert ack == {"ok": False, "error": "Invalid parameters: sessionId and machineId are required"}
