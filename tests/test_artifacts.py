"""Artifacts over HTTP and sockets: versions, events and isolation of accounts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.client import Account, World, b64, uid

MISSING = {"error": "Artifact not found"}
FOREIGN = {"error": "Artifact with this ID already exists for another account"}


def new(id: str | None = None, header: str = "h1", body: str | bytes = "b1") -> dict[str, str]:
    return {"id": id or uid(), "header": b64(header), "body": b64(body), "dataEncryptionKey": b64("key")}


async def made(account: Account, **parts: Any) -> Any:
    return await account.ok("POST", "/v1/artifacts", new(**parts))


def without(artifact: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in artifact.items() if name not in names}


async def test_a_new_artifact_is_answered_announced_and_listed(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, sess, machine = await alice.socket(), await alice.socket(session=session), await alice.socket(machine=uid())
    await ui.heard()

    artifact = await made(alice, body=b"\x00\xff\xfe")

    assert artifact == {
        **new(artifact["id"], body=b"\x00\xff\xfe"), "headerVersion": 1, "bodyVersion": 1, "seq": 0,
        "createdAt": artifact["createdAt"], "updatedAt": artifact["createdAt"],
    }  # fmt: skip
    (update,) = await ui.updates()
    assert update == {"t": "new-artifact", "artifactId": artifact["id"], **without(artifact, "id")}
    assert await sess.heard() == await machine.heard() == []
    assert await alice.ok("GET", f"/v1/artifacts/{artifact['id']}") == artifact
    assert await alice.ok("GET", "/v1/artifacts") == [without(artifact, "body", "bodyVersion")]


async def test_the_same_id_again_is_the_existing_one_without_an_event(world: World) -> None:
    alice = await world.account()
    artifact = await made(alice)
    ui = await alice.socket()
    answers = await asyncio.gather(*(made(alice, id=artifact["id"], header=f"other {i}") for i in range(4)))
    assert answers == [artifact] * 4
    assert await ui.heard() == []


async def test_a_race_for_a_new_id_makes_one_artifact_and_one_event(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    id = uid()
    answers = await asyncio.gather(*(made(alice, id=id, header=f"h{i}") for i in range(6)))
    assert answers == [answers[0]] * 6
    assert [update["artifactId"] for update in await ui.updates()] == [id]


async def test_parts_are_changed_one_by_one_or_together(world: World) -> None:
    alice = await world.account()
    id = (await made(alice))["id"]
    path = f"/v1/artifacts/{id}"
    ui, sess = await alice.socket(), await alice.socket(session=uid())

    assert await alice.ok("POST", path, {"header": b64("h2"), "expectedHeaderVersion": 1}) == {
        "success": True, "headerVersion": 2,
    }  # fmt: skip
    both = {"header": "", "expectedHeaderVersion": 2, "body": b64("b2"), "expectedBodyVersion": 1}
    assert await alice.ok("POST", path, both) == {"success": True, "headerVersion": 3, "bodyVersion": 2}

    assert await ui.updates() == [
        {"t": "update-artifact", "artifactId": id, "header": {"value": b64("h2"), "version": 2}},
        {"t": "update-artifact", "artifactId": id, "header": {"value": "", "version": 3},
         "body": {"value": b64("b2"), "version": 2}},
    ]  # fmt: skip
    assert await sess.heard() == []
    artifact = await alice.ok("GET", path)
    assert (artifact["header"], artifact["body"], artifact["seq"]) == ("", b64("b2"), 2)


async def test_a_mismatch_stores_nothing_and_returns_the_stale_parts(world: World) -> None:
    alice = await world.account()
    artifact = await made(alice)
    path = f"/v1/artifacts/{artifact['id']}"
    ui = await alice.socket()

    body = {"header": b64("x"), "expectedHeaderVersion": 1, "body": b64("x"), "expectedBodyVersion": 7}
    assert await alice.ok("POST", path, body) == {
        "success": False, "error": "version-mismatch", "currentBodyVersion": 1, "currentBody": b64("b1"),
    }  # fmt: skip
    assert await alice.ok("POST", path, {"header": b64("x"), "expectedHeaderVersion": 0}) == {
        "success": False, "error": "version-mismatch", "currentHeaderVersion": 1, "currentHeader": b64("h1"),
    }  # fmt: skip
    assert await alice.ok("GET", path) == artifact
    assert await ui.heard() == []


async def test_one_of_many_writers_wins_and_the_others_get_the_current_value(world: World) -> None:
    alice = await world.account()
    id = (await made(alice))["id"]
    ui, second = await alice.socket(), await alice.socket()

    async def over_http(value: str) -> tuple[bool, Any]:
        answer = await alice.ok("POST", f"/v1/artifacts/{id}", {"body": b64(value), "expectedBodyVersion": 1})
        return answer["success"], answer.get("currentBody")

    async def over_socket(value: str) -> tuple[bool, Any]:
        ack = await second.call(
            "artifact-update", {"artifactId": id, "body": {"data": b64(value), "expectedVersion": 1}}
        )
        return ack["result"] == "success", ack["body"].get("currentData")

    outcomes = await asyncio.gather(*(f(f"{f.__name__}{i}") for i in range(4) for f in (over_http, over_socket)))

    (update,) = await ui.updates()
    assert [won for won, _ in outcomes].count(True) == 1
    assert {current for won, current in outcomes if not won} == {update["body"]["value"]}
    assert update["body"]["version"] == 2


async def test_socket_events_do_what_the_routes_do(world: World) -> None:
    alice = await world.account()
    ui, sender = await alice.socket(), await alice.socket(session=uid())
    body = new()
    id = body["id"]

    created = await sender.call("artifact-create", body)
    whole = await alice.ok("GET", f"/v1/artifacts/{id}")
    assert created == {"result": "success", "artifact": without(whole, "dataEncryptionKey")}
    assert await sender.call("artifact-create", new(id, header="other")) == created
    assert await sender.call("artifact-read", {"artifactId": id}) == created
    change = {"artifactId": id, "header": {"data": b64("h2"), "expectedVersion": 1}, "body": None}
    assert await sender.call("artifact-update", change) == {
        "result": "success", "header": {"version": 2, "data": b64("h2")},
    }  # fmt: skip
    change["body"] = {"data": b64("b2"), "expectedVersion": 1}
    assert await sender.call("artifact-update", change) == {
        "result": "version-mismatch", "header": {"currentVersion": 2, "currentData": b64("h2")},
    }  # fmt: skip
    assert await sender.call("artifact-delete", {"artifactId": id}) == {"result": "success"}
    missing = {"result": "error", "message": "Artifact not found"}
    assert await sender.call("artifact-delete", {"artifactId": id}) == missing
    assert await sender.call("artifact-read", {"artifactId": id}) == missing

    assert [update["t"] for update in await ui.updates()] == ["new-artifact", "update-artifact", "delete-artifact"]
    assert await sender.heard() == []


async def test_a_deleted_artifact_is_gone_and_its_id_can_be_reused(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    id = (await made(alice))["id"]
    ui = await alice.socket()
    assert await alice.ok("DELETE", f"/v1/artifacts/{id}") == {"success": True}
    again = await alice.delete(f"/v1/artifacts/{id}")
    assert (again.status_code, again.json()) == (404, MISSING)
    assert await ui.updates() == [{"t": "delete-artifact", "artifactId": id}]
    assert await alice.ok("GET", "/v1/artifacts") == []
    assert (await made(bob, id=id))["id"] == id


async def test_another_account_can_neither_read_nor_write_it(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    artifact = await made(alice)
    id, path = artifact["id"], f"/v1/artifacts/{artifact['id']}"
    ui, evil = await alice.socket(), await mallory.socket()

    for response in (
        await mallory.get(path),
        await mallory.post(path, {"header": b64("x"), "expectedHeaderVersion": 1}),
        await mallory.delete(path),
    ):
        assert (response.status_code, response.json()) == (404, MISSING)
    taken = await mallory.post("/v1/artifacts", new(id))
    assert (taken.status_code, taken.json()) == (409, FOREIGN)
    change = {"artifactId": id, "header": {"data": b64("x"), "expectedVersion": 1}}
    for event, data in (("artifact-read", change), ("artifact-update", change), ("artifact-delete", change)):
        assert await evil.call(event, data) == {"result": "error", "message": "Artifact not found"}
    assert await evil.call("artifact-create", new(id)) == {"result": "error", "message": FOREIGN["error"]}

    assert await mallory.ok("GET", "/v1/artifacts") == []
    assert await alice.ok("GET", path) == artifact
    assert await ui.heard() == await evil.heard() == []


@pytest.mark.parametrize("change", [
    {"id": "no uuid"}, {"id": uid() + "\n"}, {"id": 5}, {"header": "!!!"}, {"body": "YQ"}, {"body": None},
    {"dataEncryptionKey": 5},
])  # fmt: skip
async def test_invalid_artifacts_are_rejected(world: World, change: dict[str, Any]) -> None:
    alice = await world.account()
    ui = await alice.socket()
    response = await alice.post("/v1/artifacts", {**new(), **change})
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}
    assert await ui.call("artifact-create", {**new(), **change}) == {"result": "error", "message": "Invalid parameters"}
    assert await alice.ok("GET", "/v1/artifacts") == []
    assert await ui.heard() == []


@pytest.mark.parametrize("body", [
    {}, {"header": "aA=="}, {"body": "aA=="}, {"expectedHeaderVersion": 1}, {"header": "!", "expectedHeaderVersion": 1},
    {"header": None, "expectedHeaderVersion": 1}, {"header": "aA==", "expectedHeaderVersion": -1},
    {"header": "aA==", "expectedHeaderVersion": 1, "body": "aA=="}, {"body": "aA==", "expectedBodyVersion": "1"},
    {"body": "aA==", "expectedBodyVersion": 10**30},
])  # fmt: skip
async def test_a_change_without_part_or_version_is_rejected(world: World, body: dict[str, Any]) -> None:
    alice = await world.account()
    artifact = await made(alice)
    ui = await alice.socket()
    assert (await alice.post(f"/v1/artifacts/{artifact['id']}", body)).status_code == 400
    assert await alice.ok("GET", f"/v1/artifacts/{artifact['id']}") == artifact
    assert await ui.heard() == []


@pytest.mark.parametrize(("data", "message"), [
    (None, "Invalid parameters"),
    ({"header": {"data": "aA==", "expectedVersion": 1}}, "Invalid parameters"),
    ({"artifactId": ""}, "Invalid parameters"),
    ({"artifactId": "x"}, "No updates provided"),
    ({"artifactId": "x", "header": {"data": "aA=="}}, "Invalid header parameters"),
    ({"artifactId": "x", "header": {"data": "!!!", "expectedVersion": 1}}, "Invalid header parameters"),
    ({"artifactId": "x", "header": 5}, "Invalid header parameters"),
    ({"artifactId": "x", "body": {"data": 5, "expectedVersion": 1}}, "Invalid body parameters"),
    ({"artifactId": "x", "body": {"data": "aA==", "expectedVersion": 1}}, "Artifact not found"),
])  # fmt: skip
async def test_an_invalid_socket_update_gets_an_error_that_names_the_part(
    world: World, data: Any, message: str
) -> None:
    alice = await world.account()
    ui = await alice.socket()
    assert await ui.call("artifact-update", data) == {"result": "error", "message": message}
    assert await ui.heard() == []


async def test_artifacts_of_a_session(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session = (await alice.session())["id"]
    path = f"/v1/sessions/{session}/artifacts"
    ui = await alice.socket()
    await made(alice)
    mine = await alice.ok("POST", path, new())

    assert await alice.ok("GET", path) == [without(mine, "body", "bodyVersion")]
    assert len(await alice.ok("GET", "/v1/artifacts")) == 2
    assert [update["t"] for update in await ui.updates()] == ["new-artifact", "new-artifact"]
    for response in (
        await mallory.get(path), await mallory.post(path, new()), await alice.get("/v1/sessions/none/artifacts")
    ):  # fmt: skip
        assert (response.status_code, response.json()) == (404, {"error": "Session not found"})
    await alice.ok("DELETE", f"/v1/sessions/{session}")
    assert (await alice.ok("GET", f"/v1/artifacts/{mine['id']}")) == mine
    assert await mallory.ok("GET", "/v1/artifacts") == []


async def test_the_list_is_newest_change_first_and_ends_at_200(world: World) -> None:
    alice = await world.account()
    ids = [(await made(alice))["id"] for _ in range(201)]
    await asyncio.sleep(0.002)  # the next change is in another millisecond
    await alice.ok("POST", f"/v1/artifacts/{ids[100]}", {"header": b64("h2"), "expectedHeaderVersion": 1})
    listed = await alice.ok("GET", "/v1/artifacts")
    assert len(listed) == 200
    assert listed[0]["id"] == ids[100]
    times = [artifact["updatedAt"] for artifact in listed]
    assert times == sorted(times, reverse=True)


async def test_a_large_body_is_returned_unchanged(world: World) -> None:
    alice = await world.account()
    body = bytes(range(256)) * 20_000
    artifact = await made(alice, body=body)
    assert (await alice.ok("GET", f"/v1/artifacts/{artifact['id']}"))["body"] == b64(body)
