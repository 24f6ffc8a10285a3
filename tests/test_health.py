"""GET /health and the command tell when the server cannot work, and why."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections import namedtuple
from collections.abc import Awaitable, Callable

import httpx
import pytest

from happy_light.domains import health_check
from happy_light.server import Server
from tests.client import World
from tests.commands import run
from tests.conftest import Process
from tests.webapp import ask

pytestmark = pytest.mark.slow
Inside = Callable[..., Awaitable[Server]]


async def sick(world: World) -> str:
    """Wait until the server is not healthy. Return the reason."""
    while (answer := await world.http.get("/health")).status_code == 200:
        await asyncio.sleep(0.05)
    assert answer.status_code == 503
    body = answer.json()
    assert (body["status"], body["service"]) == ("error", "happy-server")
    return str(body["error"])


async def test_a_database_file_that_is_gone(process: Process, own: World) -> None:
    assert (await own.http.get("/health")).json()["status"] == "ok"
    database = process.folder / "happy-server-light.sqlite"
    aside = database.with_name("aside")
    database.rename(aside)
    assert await sick(own) == "The database file is gone or cannot be read"
    shutil.copy(aside, database)
    await asyncio.sleep(health_check.KEPT)
    assert "replaced by another" in await sick(own)
    port = process.url.rpartition(":")[2]
    told = await run(process.folder, "health", "--port", port)
    assert told.status == 1 and "is not healthy: The database file was replaced by another" in told.err
    page = ask(process, "/", accept="text/html").text
    assert 'class="bad"' in page and "The database file was replaced" in page


async def test_a_damaged_database(process: Process, own: World) -> None:
    alice = await own.account()
    session = (await alice.session())["id"]
    for number in range(20):
        await alice.send(session, str(number), content="x" * 20_000)
    assert process.stop() == 0
    database = process.folder / "happy-server-light.sqlite"
    content = bytearray(database.read_bytes())
    for page in range(0, len(content), 4096):
        if content[page : page + 4096].count(b"x") > 4000:  # a page of a long message
            content[page : page + 4096] = b"\xa5" * 4096
    database.write_bytes(content)
    second = Process(process.folder)
    try:
        async with httpx.AsyncClient(base_url=second.url, trust_env=False, verify=False) as http:
            headers = {"Authorization": f"Bearer {alice.token}"}
            answer = await http.get(f"/v3/sessions/{session}/messages", headers=headers)
            assert answer.status_code == 503 and "damaged" in answer.json()["message"], answer.text
        async with World(second.url) as world:
            assert "The database is damaged" in await sick(world)
        for command in (["accounts", "list"], ["doctor"], ["backup", f"{process.folder}-b/"]):
            told = await run(process.folder, *command)
            assert told.status in (1, 2) and "damaged" in told.out + told.err, (command, told)
    finally:
        second.kill()
    assert "Traceback" not in "".join(second.log)
    for command in (["accounts", "list"], ["doctor"], ["export", alice.id, f"{process.folder}-e"]):
        told = await run(process.folder, *command)
        assert told.status in (1, 2) and "damaged" in told.out + told.err, (command, told)


async def test_a_check_leaves_the_locks_of_the_database_alone(process: Process, own: World) -> None:
    """A file that is opened and closed beside SQLite loses them; then others delete the log with what is in it."""
    alice = await own.account()
    assert (await own.http.get("/health")).status_code == 200
    path = process.folder / "happy-server-light.sqlite"

    def read() -> list[tuple[str]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT id FROM sessions").fetchall()

    assert read() == []
    session = await alice.session()
    assert read() == [(session["id"],)]


async def test_a_full_disk(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await inside()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as http:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4096))
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["error"]) == (503, "The disk of the database is full")
        monkeypatch.undo()
        assert (await http.get("/health")).status_code == 503, "the result is kept for a while"
        await asyncio.sleep(health_check.KEPT)
        assert (await http.get("/health")).status_code == 200


async def test_questions_share_a_check(inside: Inside) -> None:
    server = await inside()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as http:
        await http.get("/health")
        before = server.database.writes
        answers = await asyncio.gather(*(http.get("/health") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert server.database.writes - before <= 3
