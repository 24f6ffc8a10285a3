"""Projects: created once per externalId, changed by version, deleted without their sessions; the link of a session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.client import Account, World, b64, uid

FIELDS = {
    "id", "externalId", "metadata", "metadataVersion", "dataEncryptionKey", "avatar", "seq", "createdAt", "updatedAt",
}  # fmt: skip
NOT_FOUND = {"error": "Project not found"}
TEXT_MAX = 4 * 1024 * 1024


async def new_project(account: Account, external_id: str | None = None, metadata: str = "meta", **more: Any) -> Any:
    """Return a project, created or loaded by its externalId."""
    return await account.ok("POST", "/v1/projects", {"externalId": external_id or uid(), "metadata": metadata, **more})


async def shown(account: Account, session: str) -> list[Any]:
    """Return the project of a session, as every list and the session itself show it."""
    found = []
    for path in ("/v1/sessions", "/v2/sessions", "/v2/sessions/active"):
        sessions = (await account.ok("GET", path))["sessions"]
        found += [one["projectId"] for one in sessions if one["id"] == session]
    return [*found, (await account.ok("GET", f"/v1/sessions/{session}"))["session"]["projectId"]]


# ---------------------------------------------------------------------------------------- creating
async def test_a_new_project_is_announced_to_user_scoped_sockets_only(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    session = (await alice.session())["id"]
    ui, stranger = await alice.socket(), await bob.socket()
    others = [await alice.socket(session=session), await alice.socket(machine=uid())]
    for socket in (ui, *others):
        await socket.heard()

    project = await new_project(alice, "mine", dataEncryptionKey=b64("key"))

    assert project.keys() == FIELDS
    assert (project["externalId"], project["metadata"], project["metadataVersion"]) == ("mine", "meta", 1)
    assert (project["dataEncryptionKey"], project["avatar"], project["seq"]) == (b64("key"), None, 0)
    assert project["createdAt"] == project["updatedAt"]
    assert await ui.updates() == [{"t": "new-project", "projectId": project["id"]}]
    for socket in (*others, stranger):
        assert await socket.heard() == []
    assert await alice.ok("GET", f"/v1/projects/{project['id']}") == project
    assert await alice.ok("GET", "/v1/projects") == {"projects": [project]}


async def test_the_same_external_id_loads_the_project_unchanged(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    first = await new_project(alice, "x", "first")
    ui = await alice.socket()
    assert await new_project(alice, "x", "second", dataEncryptionKey=b64("key")) == first
    assert await ui.heard() == []
    assert (await new_project(bob, "x"))["id"] != first["id"]


async def test_a_race_for_one_external_id_makes_one_project(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    found = await asyncio.gather(*(new_project(alice, "x", f"{i}") for i in range(10)))
    assert all(one == found[0] for one in found)
    assert await ui.updates() == [{"t": "new-project", "projectId": found[0]["id"]}]


@pytest.mark.parametrize(
    "change",
    [{"externalId": None}, {"externalId": ""}, {"externalId": "e" * 513}, {"externalId": 5}, {"metadata": None},
     {"metadata": ""}, {"metadata": {}}, {"dataEncryptionKey": 5}, {"dataEncryptionKey": "not base64!"}],
)  # fmt: skip
async def test_an_invalid_project_is_not_created(world: World, change: dict[str, Any]) -> None:
    alice = await world.account()
    ui = await alice.socket()
    answer = await alice.post("/v1/projects", {"externalId": "e", "metadata": "m", **change})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "message", "statusCode"}
    assert await alice.ok("GET", "/v1/projects") == {"projects": []}
    assert await ui.heard() == []


async def test_the_longest_texts_are_stored(world: World) -> None:
    alice = await world.account()
    project = await new_project(alice, "e" * 512, "m" * TEXT_MAX, unknown=1)
    assert project["metadata"] == "m" * TEXT_MAX
    too_long = await alice.post("/v1/projects", {"externalId": "f", "metadata": "m" * (TEXT_MAX + 1)})
    assert too_long.status_code == 400
    for key in (None, ""):
        assert (await new_project(alice, dataEncryptionKey=key))["dataEncryptionKey"] is None


# ------------------------------------------------------------------------------------------ reading
async def test_the_list_is_ordered_by_change_and_belongs_to_the_account(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    await new_project(bob)
    projects = []
    for _ in range(3):
        projects.append(await new_project(alice))
        await asyncio.sleep(0.002)  # times are in ms
    changed = await alice.ok("PATCH", f"/v1/projects/{projects[0]['id']}", {"metadata": "new"})
    assert (await alice.ok("GET", "/v1/projects"))["projects"] == [changed, projects[2], projects[1]]
    since = await alice.ok("GET", f"/v1/projects?changedSince={projects[2]['updatedAt']}")
    assert since == {"projects": [changed]}
    both = await alice.ok("GET", f"/v1/projects?changedSince={projects[1]['updatedAt']}&ids={projects[1]['id']}")
    assert both == {"projects": []}


async def test_ids_select_own_projects_once(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    first, second, foreign = await new_project(alice), await new_project(alice), await new_project(bob)
    ids = f"{first['id']},{foreign['id']},unknown,{first['id']}"
    assert (await alice.ok("GET", f"/v1/projects?ids={ids}"))["projects"] == [first]
    listed = (await alice.ok("GET", f"/v1/projects?ids={first['id']}%2C{second['id']}"))["projects"]
    assert {one["id"] for one in listed} == {first["id"], second["id"]}
    longest = ",".join(f"{i:0>256}" for i in range(99))
    assert len(longest) < 32_768
    assert await alice.ok("GET", f"/v1/projects?ids={longest}") == {"projects": []}
    assert await alice.ok("GET", f"/v1/projects?ids={','.join(str(i % 100) for i in range(300))}") == {"projects": []}


@pytest.mark.parametrize("ids", [",".join(map(str, range(101))), "a,,b", ",", "a,", "i" * 257])
async def test_invalid_ids_are_rejected(world: World, ids: str) -> None:
    answer = await (await world.account()).get(f"/v1/projects?ids={ids}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid project ids"})


@pytest.mark.parametrize(
    "query", ["ids=", f"ids={'x' * 32_769}", "changedSince=0", "changedSince=x", "changedSince=1.5"]
)
async def test_an_invalid_query_is_a_schema_error(world: World, query: str) -> None:
    answer = await (await world.account()).get(f"/v1/projects?{query}")
    assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})


async def test_projects_are_inaccessible_to_others(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    project = await new_project(alice)
    session = await alice.session(projectId=project["id"])
    ui, evil = await alice.socket(), await mallory.socket()
    path = f"/v1/projects/{project['id']}"
    body = {"tag": "t", "metadata": "m", "projectId": project["id"]}
    for answer in (
        await mallory.get(path),
        await mallory.request("PATCH", path, {"metadata": "evil"}),
        await mallory.request("PATCH", path, {"metadata": "evil", "expectedMetadataVersion": 99}),
        await mallory.delete(path),
        await mallory.post("/v1/sessions", body),
        await alice.get("/v1/projects/unknown"),
    ):
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
    assert (await world.http.get(path)).status_code == 401
    assert await alice.ok("GET", path) == project
    assert await shown(alice, session["id"]) == [project["id"]] * 4
    assert (await mallory.ok("GET", "/v1/sessions"))["sessions"] == []
    assert await ui.heard() == await evil.heard() == []


# ----------------------------------------------------------------------------------------- changing
async def test_a_change_raises_version_and_seq_and_is_announced(world: World) -> None:
    alice = await world.account()
    project = await new_project(alice, dataEncryptionKey=b64("key"))
    ui, other = await alice.socket(), await alice.socket(machine=uid())
    await other.heard()
    await ui.heard()
    path = f"/v1/projects/{project['id']}"
    await asyncio.sleep(0.002)  # times are in ms

    changed = await alice.ok("PATCH", path, {"metadata": "two", "expectedMetadataVersion": 1})

    assert changed["updatedAt"] > project["updatedAt"]
    assert changed == {**project, "metadata": "two", "metadataVersion": 2, "seq": 1, "updatedAt": changed["updatedAt"]}
    again = await alice.ok("PATCH", path, {"metadata": "three"})
    assert (again["metadata"], again["metadataVersion"], again["seq"]) == ("three", 3, 2)
    assert await ui.updates() == [{"t": "update-project", "projectId": project["id"]}] * 2
    assert await other.heard() == []


@pytest.mark.parametrize(
    "body",
    [{}, {"metadata": "meta"}, {"expectedMetadataVersion": 1}, {"metadata": "meta", "expectedMetadataVersion": 1}],
)  # fmt: skip
async def test_what_changes_nothing_is_not_announced(world: World, body: dict[str, Any]) -> None:
    alice = await world.account()
    project = await new_project(alice)
    ui = await alice.socket()
    assert await alice.ok("PATCH", f"/v1/projects/{project['id']}", body) == project
    assert await ui.heard() == []


@pytest.mark.parametrize("body", [{"metadata": "two"}, {"metadata": "meta"}, {}])
@pytest.mark.parametrize("version", [0, 2, 99])
async def test_another_version_is_a_conflict(world: World, body: dict[str, Any], version: int) -> None:
    alice = await world.account()
    project = await new_project(alice)
    ui = await alice.socket()
    path = f"/v1/projects/{project['id']}"
    answer = await alice.request("PATCH", path, {**body, "expectedMetadataVersion": version})
    assert answer.status_code == 409
    assert answer.json() == {"error": "Project metadata version mismatch", "project": project}
    assert await alice.ok("GET", path) == project
    assert await ui.heard() == []


async def test_a_race_for_one_version_has_one_winner(world: World) -> None:
    alice = await world.account()
    project = await new_project(alice)
    ui = await alice.socket()
    path = f"/v1/projects/{project['id']}"
    bodies = [{"metadata": f"m{i}", "expectedMetadataVersion": 1} for i in range(10)]
    answers = await asyncio.gather(*(alice.request("PATCH", path, body) for body in bodies))
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    losers = [answer.json() for answer in answers if answer.status_code == 409]
    assert losers == [{"error": "Project metadata version mismatch", "project": winner}] * 9
    assert (winner["metadataVersion"], winner["seq"]) == (2, 1)
    assert await ui.updates() == [{"t": "update-project", "projectId": project["id"]}]


@pytest.mark.parametrize(
    "body",
    [{"metadata": ""}, {"metadata": None}, {"metadata": 5}, {"expectedMetadataVersion": -1, "metadata": "x"},
     {"expectedMetadataVersion": None, "metadata": "x"}, {"expectedMetadataVersion": 1.5, "metadata": "x"},
     {"metadata": "x", "dataEncryptionKey": b64("k")}, {"metadata": "x", "unknown": 1}],
)  # fmt: skip
async def test_an_invalid_change_is_a_schema_error(world: World, body: dict[str, Any]) -> None:
    alice = await world.account()
    project = await new_project(alice)
    for id in (project["id"], "unknown"):
        answer = await alice.request("PATCH", f"/v1/projects/{id}", body)
        assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
    assert await alice.ok("GET", f"/v1/projects/{project['id']}") == project


async def test_browsers_may_send_patch(world: World) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
    answer = await world.http.options("/v1/projects/x", headers=headers)
    assert answer.status_code == 200
    assert "PATCH" in answer.headers["access-control-allow-methods"]


# ----------------------------------------------------------------------------------------- deleting
async def test_deletion_keeps_the_sessions_and_announces_each_before_the_project(world: World) -> None:
    alice = await world.account()
    project, other = await new_project(alice), await new_project(alice)
    linked = [(await alice.session(projectId=project["id"]))["id"] for _ in range(2)]
    kept = await alice.session(projectId=other["id"])
    ui, own, machine = await alice.socket(), await alice.socket(session=linked[0]), await alice.socket(machine=uid())
    for socket in (ui, own, machine):
        await socket.heard()
    before = (await alice.ok("GET", f"/v1/sessions/{linked[0]}"))["session"]
    await asyncio.sleep(0.002)  # times are in ms

    assert await alice.ok("DELETE", f"/v1/projects/{project['id']}") == {"success": True}

    *unlinked, last = await ui.updates()
    assert unlinked == [{"t": "update-session", "id": id, "projectId": None} for id in sorted(linked)]
    assert last == {"t": "delete-project", "projectId": project["id"]}
    assert await own.heard() == await machine.heard() == []
    for id in linked:
        assert await shown(alice, id) == [None] * 4
    after = (await alice.ok("GET", f"/v1/sessions/{linked[0]}"))["session"]
    assert after["updatedAt"] > before["updatedAt"]
    assert after == {**before, "projectId": None, "updatedAt": after["updatedAt"]}
    assert (await alice.ok("GET", f"/v1/sessions/{kept['id']}"))["session"] == {
        key: value for key, value in kept.items() if key != "lastMessage"
    }
    again = await alice.delete(f"/v1/projects/{project['id']}")
    assert (again.status_code, again.json()) == (404, NOT_FOUND)
    assert await ui.heard() == []
    assert (await new_project(alice, project["externalId"]))["id"] != project["id"]


# ------------------------------------------------------------------------------------------- linking
async def test_a_session_is_created_with_its_project(world: World) -> None:
    alice = await world.account()
    project = await new_project(alice)
    ui = await alice.socket()
    session = await alice.session(projectId=project["id"])
    assert (session["projectId"], session["avatar"], session["avatarVersion"]) == (project["id"], None, 0)
    (created,) = await ui.updates()
    assert (created["t"], created["projectId"], created["avatar"]) == ("new-session", project["id"], None)
    assert created["avatarVersion"] == 0
    assert await shown(alice, session["id"]) == [project["id"]] * 4


@pytest.mark.parametrize("more", [{}, {"projectId": None}])
async def test_a_session_without_project_shows_the_fields(world: World, more: dict[str, Any]) -> None:
    alice = await world.account()
    ui = await alice.socket()
    session = await alice.session("t", **more)
    (created,) = await ui.updates()
    for each in (session, created, await alice.session("t")):
        assert (each["projectId"], each["avatar"], each["avatarVersion"]) == (None, None, 0)
    assert await shown(alice, session["id"]) == [None] * 4


async def test_loading_changes_the_link_only_if_another_one_is_given(world: World) -> None:
    alice = await world.account()
    first, second = (await new_project(alice))["id"], (await new_project(alice))["id"]
    session = await alice.session("t", "meta", projectId=first)
    ui, own = await alice.socket(), await alice.socket(session=session["id"])
    await own.heard()

    assert await alice.session("t", "other", dataEncryptionKey=b64("k")) == session
    assert await alice.session("t", projectId=first) == session
    assert await ui.heard() == []

    await asyncio.sleep(0.002)  # times are in ms
    moved = await alice.session("t", "other", projectId=second)
    assert moved["updatedAt"] > session["updatedAt"]
    assert moved == {**session, "projectId": second, "updatedAt": moved["updatedAt"]}
    assert await shown(alice, session["id"]) == [second] * 4
    removed = await alice.session("t", projectId=None)
    assert (removed["projectId"], removed["metadata"]) == (None, "meta")
    assert await ui.updates() == [
        {"t": "update-session", "id": session["id"], "projectId": id} for id in (second, None)
    ]
    assert await own.heard() == []


@pytest.mark.parametrize(("project", "status"), [("unknown", 404), ("", 404), (5, 400), ({}, 400)])
async def test_an_unknown_project_is_refused_before_anything_is_changed(
    world: World, project: Any, status: int
) -> None:
    alice = await world.account()
    session = await alice.session("t")
    ui = await alice.socket()
    for tag in ("t", "new"):
        body = {"tag": tag, "metadata": "m", "projectId": project, "machineId": "m"}
        answer = await alice.post("/v1/sessions", body)
        assert answer.status_code == status
        assert status == 400 or answer.json() == NOT_FOUND
    assert [one["id"] for one in (await alice.ok("GET", "/v1/sessions"))["sessions"]] == [session["id"]]
    assert (await alice.delete("/v1/machines/m")).status_code == 404  # the session has no machine
    assert await ui.heard() == []


async def test_a_link_and_the_deletion_of_its_project_at_the_same_time(world: World) -> None:
    """Whichever comes first, no session keeps a project that is gone, and every change is announced."""
    alice = await world.account()
    for _ in range(10):
        project = (await new_project(alice))["id"]
        session = await alice.session()
        ui = await alice.socket()
        linked, deleted = await asyncio.gather(
            alice.post("/v1/sessions", {"tag": "t" + project, "metadata": "m", "projectId": project}),
            alice.delete(f"/v1/projects/{project}"),
        )
        assert deleted.status_code == 200
        heard = await ui.updates()
        if linked.status_code == 404:
            assert heard == [{"t": "delete-project", "projectId": project}]
        else:
            id = linked.json()["session"]["id"]
            assert [body["t"] for body in heard] == ["new-session", "update-session", "delete-project"]
            assert heard[1] == {"t": "update-session", "id": id, "projectId": None}
            assert await shown(alice, id) == [None] * 4
        assert await shown(alice, session["id"]) == [None] * 4
