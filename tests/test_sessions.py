"""Sessions: creation by tag, versioned values, lists and pages, archive and deletion."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from tests.client import Account, World, b64, uid

FIELDS = {
    "id", "seq", "createdAt", "updatedAt", "active", "activeAt", "metadata", "metadataVersion", "agentState",
    "agentStateVersion", "dataEncryptionKey", "projectId", "avatar", "avatarVersion",
}  # fmt: skip


async def listed(account: Account, session_id: str) -> Any:
    """Return the session as GET /v1/sessions has it."""
    sessions = (await account.ok("GET", "/v1/sessions"))["sessions"]
    return next(session for session in sessions if session["id"] == session_id)


async def test_a_new_session_is_announced_to_user_sockets_only(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    ui, machine, stranger = await alice.socket(), await alice.socket(machine=uid()), await bob.socket()
    elsewhere = await alice.socket(session=(await alice.session())["id"])
    await ui.heard()
    before = int(time.time() * 1000)

    session = await alice.session("tag", "meta", dataEncryptionKey=b64(b"key"))

    assert session.keys() == FIELDS | {"lastMessage"}
    assert re.fullmatch(r"c[0-9a-z]{24}", session["id"])
    assert before - 1000 <= session["createdAt"] == session["updatedAt"] == session["activeAt"]
    assert (session["seq"], session["active"], session["lastMessage"]) == (0, True, None)
    assert (session["metadata"], session["metadataVersion"]) == ("meta", 0)
    assert (session["agentState"], session["agentStateVersion"]) == (None, 0)
    assert session["dataEncryptionKey"] == b64(b"key")
    ((name, frame),) = await ui.heard()
    assert name == "update"
    assert re.fullmatch(r"[0-9a-z]{12}", frame["id"])
    assert frame["body"] == {"t": "new-session", **{key: session[key] for key in FIELDS}}
    assert await machine.heard() == await elsewhere.heard() == await stranger.heard() == []


async def test_an_existing_tag_returns_its_session_unchanged_and_unannounced(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    first = await alice.session("tag", "first", dataEncryptionKey=b64(b"1"))
    ui = await alice.socket()
    again = await alice.session("tag", "second", dataEncryptionKey=b64(b"2"), agentState="x")
    assert again == first
    assert await ui.heard() == []
    assert (await bob.session("tag"))["id"] != first["id"]


@pytest.mark.parametrize("more", [{}, {"dataEncryptionKey": None}, {"dataEncryptionKey": b64(b"key")}])
async def test_the_agent_state_of_a_new_session_is_stored_whoever_sends_it(world: World, more: dict[str, Any]) -> None:
    alice = await world.account()
    ui = await alice.socket()
    session = await alice.session(agentState="state", **more)
    assert (session["agentState"], session["agentStateVersion"]) == ("state", 0)
    (created,) = await ui.updates()
    assert (created["agentState"], created["agentStateVersion"]) == ("state", 0)
    assert (await listed(alice, session["id"]))["agentState"] == "state"
    update = {"sid": session["id"], "agentState": "next", "expectedVersion": 0}
    assert await ui.call("update-state", update) == {"result": "success", "version": 1, "agentState": "next"}


async def test_concurrent_creation_with_one_tag_makes_one_session_and_one_event(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    sessions = await asyncio.gather(*(alice.session("tag", f"{i}") for i in range(10)))
    assert len({session["id"] for session in sessions}) == 1
    assert len({session["metadata"] for session in sessions}) == 1
    assert [body["t"] for body in await ui.updates()] == ["new-session"]


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": "m"},
        {"tag": "t"},
        {"tag": 5, "metadata": "m"},
        {"tag": "t", "metadata": None},
        {"tag": "t", "metadata": "m", "agentState": 5},
        {"tag": "t", "metadata": "m", "dataEncryptionKey": "not base64!"},
        {"tag": "t", "metadata": "m", "dataEncryptionKey": 5},
        [],
        None,
    ],
)
async def test_invalid_sessions_are_rejected(world: World, body: Any) -> None:
    alice = await world.account()
    response = await alice.post("/v1/sessions", body)
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}
    assert (await alice.ok("GET", "/v1/sessions"))["sessions"] == []


async def test_lists_contain_the_accounts_sessions_latest_change_first(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    a, b, c = [(await alice.session())["id"] for _ in range(3)]
    await bob.session()
    await asyncio.sleep(0.002)
    await alice.send(a, "x")
    sessions = (await alice.ok("GET", "/v1/sessions"))["sessions"]
    assert sessions[0]["id"] == a
    assert {session["id"] for session in sessions} == {a, b, c}
    assert all(session.keys() == FIELDS | {"lastMessage"} for session in sessions)
    active = (await alice.ok("GET", "/v2/sessions/active?limit=2"))["sessions"]
    assert len(active) == 2
    assert all(session.keys() == FIELDS for session in active)


async def test_paging_visits_every_session_once_by_id_descending(world: World) -> None:
    alice = await world.account()
    ids = [(await alice.session())["id"] for _ in range(7)]
    assert ids == sorted(ids)
    seen, cursor = [], ""
    for _ in range(3):
        page = await alice.ok("GET", f"/v2/sessions?limit=3&cursor={cursor}")
        seen += [session["id"] for session in page["sessions"]]
        cursor = page["nextCursor"]
        assert page["hasNext"] == (cursor is not None)
        if cursor is None:
            break
    assert cursor is None
    assert seen == ids[::-1]
    everything = await alice.ok("GET", "/v2/sessions?cursor=cursor_v1_")
    assert [session["id"] for session in everything["sessions"]] == ids[::-1]
    assert (everything["hasNext"], everything["nextCursor"]) == (False, None)


async def test_changed_since_omits_unchanged_sessions(world: World) -> None:
    alice = await world.account()
    ids = [(await alice.session())["id"] for _ in range(4)]
    since = max([session["updatedAt"] for session in (await alice.ok("GET", "/v1/sessions"))["sessions"]])
    await asyncio.sleep(0.002)
    await alice.send(ids[2], "x")
    await alice.send(ids[0], "x")
    page = await alice.ok("GET", f"/v2/sessions?changedSince={since}")
    assert [session["id"] for session in page["sessions"]] == [ids[2], ids[0]]
    first = await alice.ok("GET", f"/v2/sessions?changedSince={since}&limit=1")
    rest = await alice.ok("GET", f"/v2/sessions?changedSince={since}&limit=1&cursor={first['nextCursor']}")
    assert [page["sessions"][0]["id"] for page in (first, rest)] == [ids[2], ids[0]]
    assert (rest["hasNext"], rest["nextCursor"]) == (False, None)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/sessions?limit=0",
        "/v2/sessions?limit=201",
        "/v2/sessions?limit=x",
        "/v2/sessions?changedSince=0",
        "/v2/sessions?changedSince=1.5",
        "/v2/sessions?changedSince=99999999999999999999999",
        "/v2/sessions?cursor=x",
        "/v2/sessions?cursor=cursor_v2_x",
        "/v2/sessions/active?limit=501",
        "/v2/sessions/active?limit=-1",
    ],
)
async def test_invalid_queries_are_rejected(world: World, path: str) -> None:
    response = await (await world.account()).get(path)
    assert response.status_code == 400
    if "cursor" in path:
        assert response.json() == {"error": "Invalid cursor format"}


@pytest.mark.parametrize(("event", "field"), [("update-metadata", "metadata"), ("update-state", "agentState")])
async def test_a_versioned_value_is_written_with_the_current_version_only(world: World, event: str, field: str) -> None:
    alice = await world.account()
    session = await alice.session(metadata="old")
    ui, mine = await alice.socket(), await alice.socket(session=session["id"])
    machine, other = await alice.socket(machine=uid()), await alice.socket(session=(await alice.session())["id"])
    for socket in (ui, mine, machine, other):
        await socket.heard()

    good = await mine.call(event, {"sid": session["id"], field: "new", "expectedVersion": 0})
    stale = await ui.call(event, {"sid": session["id"], field: "late", "expectedVersion": 0})

    assert good == {"result": "success", "version": 1, field: "new"}
    assert stale == {"result": "version-mismatch", "version": 1, field: "new"}
    body = {"t": "update-session", "id": session["id"], field: {"value": "new", "version": 1}}
    assert await mine.updates() == await ui.updates() == [body]
    assert await machine.heard() == await other.heard() == []
    now = await listed(alice, session["id"])
    assert (now[field], now[f"{field}Version"]) == ("new", 1)
    assert now["updatedAt"] >= session["updatedAt"]


async def test_an_agent_state_can_be_null(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui = await alice.socket()
    await ui.call("update-state", {"sid": session, "agentState": "x", "expectedVersion": 0})
    ack = await ui.call("update-state", {"sid": session, "agentState": None, "expectedVersion": 1})
    assert ack == {"result": "success", "version": 2, "agentState": None}
    assert (await ui.updates())[-1]["agentState"] == {"value": None, "version": 2}


async def test_concurrent_writers_have_one_winner_per_version(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    sockets = [await alice.socket() for _ in range(5)]
    acks = await asyncio.gather(
        *(
            socket.call("update-metadata", {"sid": session, "metadata": f"{i}", "expectedVersion": 0})
            for i, socket in enumerate(sockets)
        )
    )
    (winner,) = [ack for ack in acks if ack["result"] == "success"]
    for loser in acks:
        if loser is not winner:
            assert loser == {"result": "version-mismatch", "version": 1, "metadata": winner["metadata"]}
    assert len(await sockets[0].updates()) == 1


@pytest.mark.parametrize("event", ["update-metadata", "update-state"])
@pytest.mark.parametrize(
    "data",
    [None, 5, "x", [], {}, {"sid": 5}, {"sid": ""}, {"sid": "x"}, {"expectedVersion": 0},
     {"sid": "x", "metadata": 5, "agentState": 5, "expectedVersion": 0},
     {"sid": "x", "metadata": "m", "agentState": "m", "expectedVersion": "0"},
     {"sid": "x", "metadata": "m", "agentState": "m", "expectedVersion": 2**70},
     {"sid": "x", "metadata": "m", "agentState": "m", "expectedVersion": 0}],
)  # fmt: skip
async def test_an_invalid_or_foreign_update_gets_an_error_ack(world: World, event: str, data: Any) -> None:
    ui = await (await world.account()).socket()
    assert await ui.call(event, data) == {"result": "error"}


async def test_a_foreign_session_is_inaccessible_and_unchanged(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session = (await alice.session())["id"]
    ui, evil = await alice.socket(), await mallory.socket(session=session)
    before = await listed(alice, session)

    for event, field in (("update-metadata", "metadata"), ("update-state", "agentState")):
        ack = await evil.call(event, {"sid": session, field: "evil", "expectedVersion": 0})
        assert ack == {"result": "error"}
    assert (await evil.call("session-end", {"sid": session, "time": int(time.time() * 1000)}))["ok"] is False
    assert await evil.call("session-alive", {"sid": session, "time": int(time.time() * 1000)}) == {"ok": False}
    archived = await mallory.post(f"/v1/sessions/{session}/archive", {})
    assert (archived.status_code, archived.json()) == (404, {"error": "Session not found"})
    deleted = await mallory.delete(f"/v1/sessions/{session}")
    assert (deleted.status_code, deleted.json()) == (404, {"error": "Session not found or not owned by user"})

    assert await listed(alice, session) == before
    assert await ui.heard() == []
    # What a stranger was refused does not silence the owner either.
    assert await ui.call("session-alive", {"sid": session, "time": int(time.time() * 1000)}) == {"ok": True}


async def test_archive_makes_a_session_inactive_each_time_and_loading_keeps_it_inactive(world: World) -> None:
    alice = await world.account()
    session = await alice.session("tag")
    ui, mine = await alice.socket(), await alice.socket(session=session["id"])

    for _ in range(2):
        assert await alice.ok("POST", f"/v1/sessions/{session['id']}/archive", {}) == {"success": True}
        ((name, activity),) = await ui.heard()
        assert name == "ephemeral"
        assert activity.items() >= {"type": "activity", "id": session["id"], "active": False}.items()
    assert await mine.heard() == []
    stored = await listed(alice, session["id"])
    assert stored["active"] is False
    assert stored["updatedAt"] >= session["updatedAt"]
    assert (await alice.ok("GET", "/v2/sessions/active"))["sessions"] == []
    loaded = await alice.session("tag")
    assert (loaded["active"], loaded["updatedAt"]) == (False, stored["updatedAt"])


async def test_archive_needs_no_body(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    assert (await alice.post(f"/v1/sessions/{session}/archive")).status_code == 200


async def test_delete_removes_dependent_rows_and_is_announced(world: World) -> None:
    alice = await world.account()
    session, other = (await alice.session("tag"))["id"], (await alice.session())["id"]
    await alice.send(session, "a", "b")
    await alice.send(other, "a")
    ui, mine = await alice.socket(), await alice.socket(session=session)
    report = {"key": "k", "sessionId": session, "tokens": {"total": 1}, "cost": {"total": 1}}
    assert (await ui.call("usage-report", report))["success"] is True
    await ui.heard()

    assert await alice.ok("DELETE", f"/v1/sessions/{session}") == {"success": True}

    assert await ui.updates() == [{"t": "delete-session", "sid": session}]
    assert await mine.heard() == []
    again = await alice.delete(f"/v1/sessions/{session}")
    assert (again.status_code, again.json()) == (404, {"error": "Session not found or not owned by user"})
    assert (await alice.get(f"/v1/sessions/{session}/messages")).status_code == 404
    assert await mine.call("message", {"sid": session, "message": "x"}) == {"ok": False, "error": "Session not found"}
    assert [session["id"] for session in (await alice.ok("GET", "/v1/sessions"))["sessions"]] == [other]
    assert len((await alice.ok("GET", f"/v1/sessions/{other}/messages"))["messages"]) == 1
    fresh = await alice.session("tag")
    assert fresh["id"] != session
    assert (await alice.send(fresh["id"], "a"))[0]["seq"] == 1


async def test_lists_end_at_150_and_pages_reach_all(world: World) -> None:
    alice = await world.account()
    gate = asyncio.Semaphore(8)

    async def make() -> None:
        async with gate:
            await alice.session()

    await asyncio.gather(*(make() for _ in range(160)))
    assert len((await alice.ok("GET", "/v1/sessions"))["sessions"]) == 150
    assert len((await alice.ok("GET", "/v2/sessions/active"))["sessions"]) == 150
    assert len((await alice.ok("GET", "/v2/sessions?limit=200"))["sessions"]) == 160


async def test_seq_and_updated_at_follow_the_messages(world: World) -> None:
    alice = await world.account()
    session = await alice.session()
    await asyncio.sleep(0.002)
    await alice.send(session["id"], "a", "b", "a")
    stored = await listed(alice, session["id"])
    assert stored["seq"] == 2
    assert stored["updatedAt"] > session["updatedAt"]
    await alice.send(session["id"], "a")
    assert await listed(alice, session["id"]) == stored


async def test_the_documented_routes_read_and_change_one_session(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    id = (await alice.session(metadata="m0"))["id"]
    path = f"/v1/sessions/{id}"
    ui, mine, other = await alice.socket(), await alice.socket(session=id), await alice.socket(session=uid())
    assert (await alice.ok("GET", path))["session"].keys() == FIELDS

    change: dict[str, Any] = {"metadata": "m1", "expectedMetadataVersion": 0}
    assert await alice.ok("POST", path, change) == {"success": True, "metadataVersion": 1}
    change = {"metadata": "m2", "expectedMetadataVersion": 1, "agentState": "s1", "expectedAgentStateVersion": 0}
    assert await alice.ok("POST", path, change) == {"success": True, "metadataVersion": 2, "agentStateVersion": 1}
    change = {"agentState": None, "expectedAgentStateVersion": 1}
    assert await alice.ok("POST", path, change) == {"success": True, "agentStateVersion": 2}
    expected = [
        {"t": "update-session", "id": id, "metadata": {"value": "m1", "version": 1}},
        {"t": "update-session", "id": id, "metadata": {"value": "m2", "version": 2},
         "agentState": {"value": "s1", "version": 1}},
        {"t": "update-session", "id": id, "agentState": {"value": None, "version": 2}},
    ]  # fmt: skip
    assert await ui.updates() == await mine.updates() == expected
    assert await other.heard() == []

    stale = {"success": False, "error": "version-mismatch"}
    session = (await alice.ok("GET", path))["session"]
    change = {"metadata": "x", "expectedMetadataVersion": 2, "agentState": "x", "expectedAgentStateVersion": 0}
    assert await alice.ok("POST", path, change) == {**stale, "currentAgentStateVersion": 2, "currentAgentState": None}
    change = {"metadata": "x", "expectedMetadataVersion": 0, "agentState": "x", "expectedAgentStateVersion": 2}
    assert await alice.ok("POST", path, change) == {**stale, "currentMetadataVersion": 2, "currentMetadata": "m2"}
    bad: list[dict[str, Any]] = [
        {}, {"metadata": "x"}, {"expectedMetadataVersion": 2}, {"metadata": None, "expectedMetadataVersion": 2},
        {"metadata": "x", "expectedMetadataVersion": -1}, {"agentState": "x", "expectedMetadataVersion": 2},
        {"metadata": "x", "expectedMetadataVersion": 2, "agentState": "x"},
    ]  # fmt: skip
    for change in bad:
        assert (await alice.post(path, change)).status_code == 400, change
    change = {"metadata": "evil", "expectedMetadataVersion": 2}
    for response in (await mallory.get(path), await mallory.post(path, change)):
        assert (response.status_code, response.json()) == (404, {"error": "Session not found"})
    assert (await alice.ok("GET", path))["session"] == session
    assert await ui.heard() == await mine.heard() == []


async def test_http_and_socket_writers_of_one_version_have_one_winner(world: World) -> None:
    alice = await world.account()
    id = (await alice.session())["id"]
    ui, sender = await alice.socket(), await alice.socket()

    async def over_http(value: str) -> tuple[bool, Any]:
        change = {"metadata": value, "expectedMetadataVersion": 0}
        answer = await alice.ok("POST", f"/v1/sessions/{id}", change)
        return answer["success"], answer.get("currentMetadata", value)

    async def over_socket(value: str) -> tuple[bool, Any]:
        ack = await sender.call("update-metadata", {"sid": id, "metadata": value, "expectedVersion": 0})
        return ack["result"] == "success", ack["metadata"]

    outcomes = await asyncio.gather(*(f(f"{f.__name__}{i}") for i in range(4) for f in (over_http, over_socket)))

    (update,) = await ui.updates()
    assert [won for won, _ in outcomes].count(True) == 1
    assert {current for _, current in outcomes} == {update["metadata"]["value"]}
