"""Usage: reports of agents, and their sums by hour and day of UTC."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests import databases
from tests.client import Socket, World, uid
from tests.conftest import Start

PATH = "/v1/usage/query"


async def report(
    socket: Socket, key: str, session: str | None, tokens: dict[str, Any], cost: dict[str, Any] | None = None
) -> Any:
    data = {"key": key, "sessionId": session, "tokens": tokens, "cost": cost or {"total": 1}}
    ack = await socket.call("usage-report", data)
    assert ack["success"], ack
    return ack


async def test_a_report_replaces_the_one_with_its_key_and_reaches_user_scoped_sockets(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, sender, machine = await alice.socket(), await alice.socket(session=session), await alice.socket(machine=uid())
    await ui.heard()

    first = await report(sender, "k", session, {"total": 1})
    ((name, event),) = await ui.heard()
    assert name == "ephemeral"
    assert event == {
        "type": "usage", "id": session, "key": "k", "tokens": {"total": 1}, "cost": {"total": 1},
        "timestamp": event["timestamp"],
    }  # fmt: skip
    second = await report(sender, "k", session, {"total": 2, "note": "text"})

    assert first.keys() == {"success", "reportId", "createdAt", "updatedAt"}
    assert (second["reportId"], second["createdAt"]) == (first["reportId"], first["createdAt"])
    assert [event["tokens"] for _, event in await ui.heard()] == [{"total": 2, "note": "text"}]
    assert await sender.heard() == await machine.heard() == []
    answer = await alice.ok("POST", PATH, {})
    assert (answer["totalReports"], answer["usage"][0]["tokens"]) == (1, {"total": 2})


async def test_a_report_without_a_session_is_stored_and_not_announced(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    acks = [await report(ui, "k", None, {"total": total}) for total in (1, 2)]
    assert acks[0]["reportId"] == acks[1]["reportId"]
    assert await ui.heard() == []
    answer = await alice.ok("POST", PATH, {})
    assert (answer["totalReports"], answer["usage"][0]["tokens"]) == (1, {"total": 2})


async def test_concurrent_first_reports_with_one_key_are_stored_once(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    sockets = [await alice.socket() for _ in range(4)]
    acks = await asyncio.gather(*(report(socket, "k", session, {"total": 3}) for socket in sockets))
    assert len({ack["reportId"] for ack in acks}) == 1
    assert (await alice.ok("POST", PATH, {}))["totalReports"] == 1


async def test_every_numeric_key_is_summed(world: World) -> None:
    alice = await world.account()
    one, other = (await alice.session())["id"], (await alice.session())["id"]
    ui = await alice.socket()
    assert await alice.ok("POST", PATH, {}) == {"usage": [], "groupBy": "day", "totalReports": 0}
    unusual = {"text": "x", "flag": True, "nothing": None, "list": [1], "deep": {"total": 5}}
    await report(ui, "a", one, {"total": 10, "input": 4, **unusual}, {"total": 0.5})
    await report(ui, "b", one, {"total": 5, "output": 1.5, "big": 2**63}, {"total": 0.25, "x": -1})
    await report(ui, "a", other, {"total": 100, "big": 2**63, "huge": 10**300}, {"total": 1})

    answer = await alice.ok("POST", PATH, {"groupBy": None, "sessionId": None, "startTime": None, "endTime": None})
    (bucket,) = answer["usage"]
    assert (answer["groupBy"], answer["totalReports"], bucket["reportCount"]) == ("day", 3, 3)
    assert bucket["tokens"] == {"total": 115, "input": 4, "output": 1.5, "big": 2.0**64, "huge": 1e300}
    assert bucket["cost"] == {"total": 1.75, "x": -1}
    for query, count in (({"sessionId": one}, 2), ({"sessionId": other, "groupBy": "hour"}, 1), ({"sessionId": ""}, 3)):
        assert (await alice.ok("POST", PATH, query))["totalReports"] == count


async def test_buckets_are_hours_and_days_of_utc_and_bounds_are_included(start: Start) -> None:
    server = start(TZ="Asia/Kolkata")
    async with World(server.url) as world:
        alice = await world.account()
        ui = await alice.socket()
        midnight = 1_750_032_000  # 2025-06-16T00:00:00Z
        times = {"a": midnight - 1, "b": midnight, "c": midnight + 3599, "d": midnight + 3600, "e": midnight + 86_400}
        for key in times:
            await report(ui, key, None, {"total": 1, key: 1})
        for key, seconds in times.items():
            databases.query(
                server.folder, "UPDATE usage_reports SET created_at = ? WHERE key = ?", (seconds * 1000, key)
            )

        async def buckets(**query: Any) -> list[tuple[int, str]]:
            usage = (await alice.ok("POST", PATH, query))["usage"]
            assert [bucket["reportCount"] for bucket in usage] == [bucket["tokens"]["total"] for bucket in usage]
            return [(bucket["timestamp"] - midnight, "".join(sorted(bucket["tokens"]))[:-5]) for bucket in usage]

        assert await buckets() == [(-86_400, "a"), (0, "bcd"), (86_400, "e")]
        assert await buckets(groupBy="hour") == [(-3600, "a"), (0, "bc"), (3600, "d"), (86_400, "e")]
        assert await buckets(startTime=midnight, endTime=midnight + 3600) == [(0, "bcd")]
        assert await buckets(startTime=midnight + 1, endTime=midnight + 3599) == [(0, "c")]
        assert await buckets(startTime=midnight + 86_401) == []
        assert await buckets(endTime=midnight - 2) == []


async def test_sessions_and_reports_of_other_accounts_are_inaccessible(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session = (await alice.session())["id"]
    ui, evil = await alice.socket(), await mallory.socket()
    await report(ui, "k", session, {"total": 1})
    await ui.heard()

    assert (await mallory.ok("POST", PATH, {}))["totalReports"] == 0
    for account, id in ((mallory, session), (alice, "none")):
        response = await account.post(PATH, {"sessionId": id})
        assert (response.status_code, response.json()) == (404, {"error": "Session not found"})
    data = {"key": "k", "sessionId": session, "tokens": {"total": 9}, "cost": {"total": 9}}
    assert await evil.call("usage-report", data) == {"success": False, "error": "Session not found"}
    assert await ui.heard() == await evil.heard() == []
    assert (await alice.ok("POST", PATH, {}))["usage"][0]["tokens"] == {"total": 1}


@pytest.mark.parametrize("body", [
    {"groupBy": "week"}, {"sessionId": 5}, {"startTime": "x"}, {"startTime": 0}, {"startTime": -1}, {"endTime": 1.5},
    {"endTime": 0}, {"startTime": 10**30}, [],
])  # fmt: skip
async def test_invalid_queries_are_rejected(world: World, body: Any) -> None:
    alice = await world.account()
    response = await alice.post(PATH, body)
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}


@pytest.mark.parametrize(("change", "error"), [
    ({"key": ""}, "Invalid key"),
    ({"key": 5}, "Invalid key"),
    ({"tokens": None}, "Invalid tokens object - must include total"),
    ({"tokens": {"total": "1"}}, "Invalid tokens object - must include total"),
    ({"tokens": {"total": True}}, "Invalid tokens object - must include total"),
    ({"cost": {"input": 1}}, "Invalid cost object - must include total"),
    ({"cost": 5}, "Invalid cost object - must include total"),
    ({"sessionId": 5}, "Invalid sessionId"),
    ({"sessionId": "none"}, "Session not found"),
])  # fmt: skip
async def test_an_invalid_report_gets_an_error_ack(world: World, change: dict[str, Any], error: str) -> None:
    alice = await world.account()
    ui = await alice.socket()
    data = {"key": "k", "tokens": {"total": 1}, "cost": {"total": 1}, **change}
    assert await ui.call("usage-report", data) == {"success": False, "error": error}
    assert await ui.heard() == []
    assert (await alice.ok("POST", PATH, {}))["totalReports"] == 0
