"""PostgreSQL goes away and comes back: nothing is lost, stored twice, out of order or left hanging."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from happy_light.config import postgres_url
from happy_light.errors import ServiceUnavailable
from happy_light.store import Database, Transaction
from happy_light.store.postgres import connection as connections
from happy_light.store.postgres import pipeline
from happy_light.store.postgres.engine import PostgresEngine
from happy_light.store.postgres.writer import PostgresWriter
from tests.postgres_fixtures import cut, opened, until
from tests.services import Postgres
from tests.stores import Heard, add_account, keys, listening_bus, number, put, seq_of, updates

pytestmark = pytest.mark.slow  # stops PostgreSQL and waits for it

pytest_plugins = ["tests.service_fixtures", "tests.postgres_fixtures"]


# --------------------------------------------------------------------------------------------- outages
async def test_connections_that_were_cut_are_made_again_without_an_error(
    database: Database, other: psycopg.Connection[Any], heard: Heard
) -> None:
    for n in range(3):
        cut(other)
        assert await asyncio.gather(database.write("a", put, n), database.read(seq_of, "a"))
    assert [event.seq for event in updates(heard)] == [1, 2, 3]
    cut(other)
    async with database.lease("sweep") as granted:
        assert granted


async def test_a_connection_that_is_cut_within_a_write_runs_it_again(
    database: Database, other: psycopg.Connection[Any], heard: Heard
) -> None:
    runs = 0

    def cut_once(tx: Transaction, account_id: str) -> int:
        nonlocal runs
        runs += 1
        put(tx, account_id, 7)
        if runs == 1:
            cut(other)
        return 7

    assert await database.write("a", cut_once) == 7
    assert runs == 2
    assert await database.read(keys, "a") == [7]
    assert [event.seq for event in updates(heard)] == [1]


class CutOff:
    """A way to PostgreSQL that is cut in the moment of a commit: before it arrives, or before its answer does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.mode = ""
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.mode == "closed":
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                for one, two in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, two, one is client), daemon=True).start()

    def _pass(self, one: socket.socket, two: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                # The last that a group sends is its updates and COMMIT; the last answer is that of COMMIT.
                before = to_server and self.mode == "before" and b'"body"' in data
                after = not to_server and self.mode == "after" and b"COMMIT\0" in data
                if before or after:
                    self.cuts += 1
                    self.mode = ""
                    break
                two.sendall(data)
        for each in (one, two):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


@pytest.fixture
def cut_off(database_url: str) -> Iterator[CutOff]:
    """Return a way to this test's database."""
    way = CutOff(psycopg.conninfo.conninfo_to_dict(database_url)["port"])  # type: ignore[arg-type]
    yield way
    way.close()


def through(way: CutOff, url: str) -> str:
    """Return the URL of the same database on that way."""
    head, _, path = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{way.port}/{path}"


async def test_a_connection_that_is_lost_while_commit_is_sent_leaves_nothing_to_the_next(
    database: Database, other: psycopg.Connection[Any], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = pipeline.Pipeline.send
    lost = 0

    def lose(self: pipeline.Pipeline, text: bytes, args: Any) -> pipeline.Answer:
        nonlocal lost
        if text == b"COMMIT" and lost == 0:
            lost += 1
            cut(other)
            self.connection.close()
        return send(self, text, args)

    monkeypatch.setattr(pipeline.Pipeline, "send", lose)
    assert await asyncio.gather(*(database.write("a", put, n) for n in range(3))) == [0, 1, 2]
    assert lost == 1
    assert await database.read(keys, "a") == [0, 1, 2]
    assert [event.seq for event in updates(heard)] == [1, 2, 3]
    assert await database.read(seq_of, "a") == 3


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_commit_that_is_cut_off_is_stored_once_acknowledged_and_published_in_order(
    database_url: str, cut_off: CutOff, heard: Heard, moment: str
) -> None:
    async with opened(through(cut_off, database_url), heard) as database:
        await database.write_for((), add_account, "a")
        for n in range(3):
            await database.write("a", put, n)
        cut_off.mode = moment
        writes = [database.write("a", put, n) for n in range(3, 6)]
        assert await asyncio.wait_for(asyncio.gather(*writes), 20) == [3, 4, 5]
        assert cut_off.cuts == 1
        assert await database.write("a", put, 6) == 6
        assert await database.read(keys, "a") == list(range(7))
        assert await database.read(seq_of, "a") == 7
    assert [(number(event), event.seq) for event in updates(heard)] == [(n, n + 1) for n in range(7)]


async def test_what_was_stored_before_a_long_outage_is_published_after_it_though_its_callers_were_told_unknown(
    database_url: str, cut_off: CutOff, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("happy_light.store.group_commit.SETTLE_SECONDS", 0.3)
    async with opened(through(cut_off, database_url), heard) as database:
        await database.write_for((), add_account, "a")
        await database.write("a", put, 0)

        def close_the_way(tx: Transaction, account_id: str) -> int:
            cut_off.mode = "after"
            return put(tx, account_id, 1)

        monkeypatch.setattr(PostgresWriter, "was_committed", lambda writer: None)
        with pytest.raises(ServiceUnavailable, match="not known whether"):
            await database.write("a", close_the_way)
        with pytest.raises(ServiceUnavailable):
            await database.write("a", put, 2)
        assert await database.read(keys, "a") == [0, 1]
        assert len(updates(heard)) == 1
        monkeypatch.undo()
        await until(lambda: len(updates(heard)) == 2)
        assert await database.write("a", put, 3) == 3
    assert [(number(event), event.seq) for event in updates(heard)] == [(0, 1), (1, 2), (3, 3)]


async def test_an_outage_refuses_reads_and_writes_at_once_and_ends_by_itself(
    start_postgres: Callable[..., Postgres], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_RETRY_LAST", 0.2)
    postgres = start_postgres(fsync=False)
    async with opened(postgres.url, heard) as database:
        await database.write_for((), add_account, "a")
        await database.write("a", put, 0)
        postgres.kill()
        for _ in range(3):
            for work in (database.write("a", put, 1), database.read(seq_of, "a")):
                with pytest.raises(ServiceUnavailable):
                    await asyncio.wait_for(work, 5)
        postgres.start()
        n = 1

        async def comes_back(work: Callable[[], Any]) -> None:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(ServiceUnavailable):
                        await work()
                        return
                    await asyncio.sleep(0.02)

        await comes_back(lambda: database.write("a", put, n))
        await comes_back(lambda: database.read(seq_of, "a"))
        assert await database.read(keys, "a") == [0, 1]
        postgres.kill()
    assert [event.seq for event in updates(heard)] == [1, 2]


@pytest.mark.slow
async def test_a_server_that_stops_during_an_outage_does_not_wait_for_its_end(
    start_postgres: Callable[..., Postgres], heard: Heard
) -> None:
    postgres = start_postgres(fsync=False)
    database = Database(PostgresEngine(postgres_url.parse(postgres.url)), listening_bus(heard))
    await database.open()
    await database.write_for((), add_account, "a")

    def kill(tx: Transaction, account_id: str) -> None:
        put(tx, account_id, 1)
        postgres.kill()

    write = database.write("a", kill)
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(write, 20)
    await asyncio.wait_for(database.close(), 10)
