"""prune: what is asked for and nothing else; clients hear of it; the file becomes smaller."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from happy_light.config import setting_types
from tests import databases
from tests.client import Account, World, b64, uid
from tests.commands import ok, run
from tests.conftest import Process, Start
from tests.pictures import Pictures, name

DAY = 86_400_000  # ms


def sql(process: Process, statement: str, *arguments: Any) -> None:
    databases.query(process.folder, statement, arguments)


async def session_of(account: Account, process: Process, messages: int, age: int, active: int = 0) -> str:
    """Return a session that was last active `age` days ago, with an attachment."""
    session: str = (await account.session())["id"]
    for start in range(0, messages, 100):
        await account.send(session, *(f"l{i}" for i in range(start, min(start + 100, messages))), content="x" * 1000)
    at = int(time.time() * 1000) - age * DAY
    sql(process, "UPDATE sessions SET active = ?, active_at = ? WHERE id = ?", active, at, session)
    attachment(process, session)
    return session


def attachment(process: Process, session: str, age: float = 0) -> Path:
    folder = process.folder / "attachments" / "sessions" / session
    folder.mkdir(parents=True)
    (folder / f"{uid()}.enc").write_bytes(b"x" * 100)
    os.utime(folder, (time.time() - age,) * 2)
    return folder


async def sessions_of(account: Account) -> set[str]:
    return {session["id"] for session in (await account.ok("GET", "/v2/sessions"))["sessions"]}


async def test_silent_sessions_go_with_everything_and_clients_hear_it(process: Process, own: World) -> None:
    alice = await own.account()
    old = await session_of(alice, process, 2500, 100)
    young = await session_of(alice, process, 3, 80)
    active = await session_of(alice, process, 3, 100, active=1)
    ui = await alice.socket()
    await ui.heard()

    would = await ok(process.folder, "prune", "--sessions-inactive", "90d", "--dry-run")
    assert await sessions_of(alice) == {old, young, active}
    assert await ui.heard() == []
    before = await ok(process.folder, "stats")
    pruned = await ok(process.folder, "prune", "--sessions-inactive", "90d")
    after = await ok(process.folder, "stats")

    writes = after["server"]["writer"]["writes"] - before["server"]["writer"]["writes"]
    assert writes < 50, "pages are given back many at a time"
    for report in (would, pruned):
        assert (report["sessions"], report["messages"], report["fileBytes"]) == (1, 2500, 100)
    assert (would["dryRun"], would["freedBytes"]) == (True, 0)
    assert pruned["freedBytes"] > 1_000_000
    assert await sessions_of(alice) == {young, active}
    (frame,) = [data for _, data in await ui.heard("update")]
    assert frame["body"] == {"t": "delete-session", "sid": old}
    folders = {path.name for path in (process.folder / "attachments" / "sessions").iterdir()}
    assert folders == {young, active}
    assert (await ok(process.folder, "stats"))["records"]["messages"] == 6


async def test_old_messages_go_and_numbering_goes_on(process: Process, own: World) -> None:
    alice = await own.account()
    session = await session_of(alice, process, 10, 0)
    sql(process, "UPDATE messages SET created_at = created_at - ? WHERE seq <= 6", 200 * DAY)

    would = await ok(process.folder, "prune", "--messages-older", "180d", "--dry-run")
    pruned = await ok(process.folder, "prune", "--messages-older", "180d")

    assert would["messages"] == pruned["messages"] == 6
    page = await alice.ok("GET", f"/v3/sessions/{session}/messages?after_seq=0")
    assert [message["seq"] for message in page["messages"]] == [7, 8, 9, 10]
    (stored,) = await alice.send(session, "new")
    assert stored["seq"] == 11
    assert (await ok(process.folder, "prune", "--messages-older", "180d"))["messages"] == 0


async def test_leftovers_go_without_being_asked_for_and_nothing_else(process: Process, own: World) -> None:
    alice = await own.account()
    session = await session_of(alice, process, 5, 400)
    gone, fresh = attachment(process, "gone", 7200), attachment(process, "fresh")
    unfinished, under_way = (process.folder / "attachments" / "sessions" / session / f".{i}.part" for i in "ab")
    for file, age in ((unfinished, 7200), (under_way, 0)):
        file.write_bytes(b"x" * 10)
        os.utime(file, (time.time() - age,) * 2)
    for age in (2, 0):
        asked = await own.http.post("/v1/auth/request", json={"publicKey": b64(bytes([age]) * 32)})
        assert asked.status_code == 200
        if age:
            sql(process, "UPDATE auth_requests SET created_at = created_at - ?", age * DAY)

    would = await ok(process.folder, "prune", "--dry-run")
    assert gone.exists()
    pruned = await ok(process.folder, "prune")

    for report in (would, pruned):
        assert (report["sessions"], report["messages"], report["authRequests"]) == (0, 0, 1)
        assert (report["orphanedFolders"], report["unfinishedUploads"], report["fileBytes"]) == (1, 1, 110)
    assert (gone.exists(), fresh.exists()) == (False, True)
    assert (unfinished.exists(), under_way.exists()) == (False, True)
    assert await sessions_of(alice) == {session}


@pytest.mark.parametrize("kind", ["projects", "sessions"])
async def test_old_pictures_that_are_not_active_and_those_without_an_owner_go(
    process: Process, own: World, kind: str
) -> None:
    pictures = await Pictures.make(await own.account(), kind)
    replaced, fresh, active = [await pictures.upload(content) for content in (b"1", b"22", b"333")]
    for ref in (replaced, active):
        assert (await pictures.activate(ref)).status_code == 200
    attachments = process.folder / "attachments"
    gone = attachments / kind / "gone"
    (gone / "avatar").mkdir(parents=True)
    (gone / "avatar" / f"{uid()}.enc").write_bytes(b"x" * 100)
    os.utime(gone, (time.time() - 7200,) * 2)
    for ref in (replaced, active):
        os.utime(attachments / ref, (time.time() - 86_500,) * 2)

    would = await ok(process.folder, "prune", "--dry-run")
    assert (gone.exists(), (attachments / replaced).exists()) == (True, True)
    pruned = await ok(process.folder, "prune")

    for report in (would, pruned):
        assert (report["orphanedFolders"], report["unusedPictures"], report["fileBytes"]) == (1, 1, 101)
    kept = [(attachments / ref).exists() for ref in (replaced, fresh, active)]
    assert (gone.exists(), kept) == (False, [False, True, True])
    assert (await pictures.get(name(active))).content == b"333"


async def test_it_works_while_no_server_runs(start: Start, process: Process, own: World) -> None:
    alice = await own.account()
    await session_of(alice, process, 3, 100)
    process.stop()
    assert (await ok(process.folder, "prune", "--sessions-inactive", "90d"))["sessions"] == 1
    async with World(start(folder=process.folder).url) as world:
        assert await sessions_of(await world.account(alice.key)) == set()


async def test_as_a_setting_it_runs_by_itself_and_without_it_nothing_does(
    start: Start, process: Process, own: World
) -> None:
    alice = await own.account()
    session = await session_of(alice, process, 3, 100)
    process.stop()
    second: Process = start(folder=process.folder)
    async with World(second.url) as world:
        assert await sessions_of(await world.account(alice.key)) == {session}
    second.stop()
    third: Process = start(folder=process.folder, HAPPY_SERVER_LIGHT_PRUNE_SESSIONS_INACTIVE="90d")
    async with World(third.url) as world:
        again = await world.account(alice.key)
        deadline = time.monotonic() + 30
        while await sessions_of(again):
            assert time.monotonic() < deadline, "it was not pruned"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90d", 90 * 86_400), ("2w", 1_209_600), ("1h", 3600), ("5s", 5)]
)
def test_ages(text: str, seconds: int) -> None:
    assert setting_types.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "0d", "1y", "1d2h", "9" * 20 + "d"])
async def test_ages_that_are_none(process: Process, text: str) -> None:
    result = await run(process.folder, "prune", f"--sessions-inactive={text}")
    assert (result.status, result.out) == (2, "")
    assert "like 10m, 12h or 90d" in result.err
