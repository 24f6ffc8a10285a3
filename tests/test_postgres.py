"""What is PostgreSQL's own: the session, the outbox, other processes, text that it cannot store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from happy_light.bus import Audience, Update
from happy_light.errors import BadRequest, ServiceUnavailable
from happy_light.store import Database, Transaction
from happy_light.store.engine import AccountsBusy
from tests.postgres_fixtures import opened, until
from tests.stores import Body, Heard, Held, add_account, keys, number, put, seq_of, updates

pytest_plugins = ["tests.service_fixtures", "tests.postgres_fixtures"]


# ------------------------------------------------------------------------------------ the session
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("synchronous_commit", "on"),
        ("lock_timeout", "3s"),
        ("statement_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("search_path", "happy_light"),
        ("transaction_isolation", "read committed"),
    ],
)
async def test_the_writer_is_set_up(database_url: str, heard: Heard, setting: str, value: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        connection.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    async with opened(database_url, heard) as database:
        assert await database.write_for((), lambda tx: tx.fetch_one(f"SHOW {setting}")) == (value,)


async def test_statements_are_prepared_once_whatever_the_size_of_their_numbers(database: Database) -> None:
    def insert(tx: Transaction, at: int) -> list[Any]:
        tx.execute("UPDATE accounts SET updated_at = ? WHERE id = 'a'", (at,))
        prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'UPDATE accounts SET up%'"
        return tx.fetch_all(prepared)

    for at in (1, 2**20, 2**50, True):
        assert await database.write("a", lambda tx, _, at: insert(tx, at), at) == [(1,)]
    assert await database.read(lambda tx: tx.fetch_one("SELECT updated_at FROM accounts WHERE id = 'a'")) == (1,)


# ---------------------------------------------------------------------------------- what it cannot store
@pytest.mark.parametrize("text", ["\0", "a\0b"])
async def test_nul_is_refused_and_others_of_the_group_are_stored(database: Database, text: str, heard: Heard) -> None:
    def bad(tx: Transaction, account_id: str) -> None:
        put(tx, account_id, 5)
        tx.execute("UPDATE accounts SET settings = ? WHERE id = ?", (text, account_id))

    held = await Held(database).started()
    writes: list[asyncio.Future[Any]] = [
        database.write("a", put, 1), database.write("a", bad), database.write(text, lambda tx, id: None),
        database.write("a", put, 2),
    ]  # fmt: skip
    await held.release()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert (results[0], results[2], results[3]) == (1, None, 2)
    assert isinstance(results[1], BadRequest)
    assert [(number(event), event.seq) for event in updates(heard)] == [(1, 1), (2, 2)]
    with pytest.raises(BadRequest):
        await database.read(seq_of, text)


async def test_a_key_that_no_index_can_hold_is_refused(database: Database) -> None:
    import random
    import string

    key = "".join(random.choices(string.ascii_letters, k=20_000))
    insert = "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES ('a', ?, NULL, 0, 0, 0)"
    with pytest.raises(BadRequest, match="too long"):
        await database.write("a", lambda tx, _: tx.queue(insert, (key,)))
    with pytest.raises(BadRequest, match="too l"):
        await database.write("a", lambda tx, _: tx.execute(insert, (key,)))
    assert await database.write("a", put, 1) == 1


async def test_a_statement_that_is_wrong_tells_no_client_and_no_log_what_it_was_about(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await database.write("a", put, 1)
    with pytest.raises(Exception) as error:
        await database.write("a", put, 1)
    assert "000000001" not in str(error.value) + caplog.text
    with pytest.raises(Exception, match="42P01"):
        await database.read(lambda tx: tx.fetch_all("SELECT 1 FROM nowhere"))


# ------------------------------------------------------------------------------------------ the outbox
async def test_updates_lie_in_the_outbox_with_the_transaction_that_made_them(
    database: Database, heard: Heard, other: psycopg.Connection[Any]
) -> None:
    await database.write("a", lambda tx, id: tx.publish(Update(Audience.session(id, "s"), Body(1), "socket")))
    await database.write("a", put, 2)
    with pytest.raises(BadRequest):
        await database.write("a", put, 3, BadRequest("no"))
    rows = other.execute("SELECT account_id, seq, audience, skip, frame FROM updates ORDER BY seq").fetchall()
    frames = [event.frame for event in updates(heard)]
    assert rows == [("a", 1, "session:s", "socket", frames[0]), ("a", 2, "user", None, frames[1])]


async def test_a_server_that_is_the_only_one_keeps_no_outbox(
    database_url: str, heard: Heard, other: psycopg.Connection[Any]
) -> None:
    async with opened(database_url, heard, outbox=False) as database:
        await database.write_for((), add_account, "a")
        assert await asyncio.gather(*(database.write("a", put, n) for n in range(5))) == list(range(5))
    assert [event.seq for event in updates(heard)] == [1, 2, 3, 4, 5]
    assert other.execute("SELECT count(*) FROM updates").fetchone() == (0,)
    assert other.execute("SELECT seq FROM accounts").fetchone() == (5,)


async def test_old_updates_are_deleted_from_the_outbox(
    database_url: str, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("happy_light.store.postgres.engine._TIDY_EVERY", 0.01)
    monkeypatch.setattr("happy_light.store.postgres.engine._TIDY_BATCH", 2)
    async with opened(database_url, heard) as database:
        await database.write_for((), add_account, "a")

        def left() -> list[int]:
            with psycopg.connect(database_url) as connection:
                return [seq for (seq,) in connection.execute("SELECT seq FROM happy_light.updates ORDER BY seq")]

        for n in range(6):
            await database.write("a", put, n)
        assert left() == [1, 2, 3, 4, 5, 6]
        await database.write("a", lambda tx, _: tx.execute("UPDATE updates SET created_at = 0 WHERE seq < 6"))
        await until(lambda: left() == [6])


# ------------------------------------------------------------------------------------- other processes
async def test_an_account_that_another_process_holds_keeps_only_its_own_writes_waiting(
    database: Database, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write_for((), lambda tx: tx.execute("SET lock_timeout = 200"))
    with other.transaction():
        other.execute("SELECT 1 FROM accounts WHERE id = 'a' FOR UPDATE")
        held = await Held(database).started()
        writes = [database.write("ab"[n % 2], put, n) for n in range(20)]
        await held.release()
        results = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 20)
    assert [type(result) for result in results[::2]][:1] == [AccountsBusy]
    assert all(isinstance(result, ServiceUnavailable) for result in results[::2])
    assert results[1::2] == list(range(1, 20, 2))
    assert await database.write("a", put, 100) == 100
    assert await database.read(keys, "a") == [100]


async def test_two_processes_number_the_updates_of_an_account_without_a_gap(
    database: Database, database_url: str, heard: Heard
) -> None:
    elsewhere: Heard = []
    async with opened(database_url, elsewhere) as second:

        async def writer(which: Database, start: int) -> None:
            for n in range(start, start + 40):
                await which.write_for(("a", "b"), put, "ab"[n % 2], n)

        await asyncio.gather(*(writer(which, 1000 * i) for i, which in enumerate([database, second] * 3)))
    for account in "ab":
        mine = [event.seq for event in updates(heard + elsewhere) if event.audience.account_id == account]
        assert sorted(mine) == list(range(1, 121))
        assert await database.read(seq_of, account) == 120
    for log in (heard, elsewhere):
        mine = [event.seq for event in updates(log) if event.audience.account_id == "a"]
        assert mine == sorted(mine)


async def test_a_row_that_another_process_made_first_is_read_by_the_second_run(
    database: Database, other: psycopg.Connection[Any]
) -> None:
    runs = 0

    insert = "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES ('ours', 'same', 0, 0)"

    def find_or_make(tx: Transaction) -> str:
        nonlocal runs
        runs += 1
        row = tx.fetch_one("SELECT id FROM accounts WHERE public_key = 'same'")
        if row is not None:
            return str(row[0])
        if runs == 1:
            other.execute(insert.replace("ours", "theirs").encode())
        tx.execute(insert)
        return "ours"

    assert await database.write_for((), find_or_make) == "theirs"
    assert runs == 2


async def test_a_lease_is_of_one_process_at_a_time(database: Database, database_url: str) -> None:
    async with opened(database_url, []) as second:
        async with database.lease("sweep") as mine, second.lease("sweep") as theirs, database.lease("sweep") as again:
            assert (mine, theirs, again) == (True, False, False)
            async with second.lease("prune") as another:
                assert another
        async with asyncio.timeout(20):
            now = False
            while not now:
                async with second.lease("sweep") as now:
                    pass


def put_many(tx: Transaction, account: str, count: int) -> list[int]:
    """Store so many numbers, and return what there is then."""
    tx.executemany(
        "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        [(account, f"{n:09}", None if n % 3 == 0 else b"x", n, n, n) for n in range(count)],
    )
    return [int(row[0]) for row in tx.fetch_all("SELECT version FROM kv WHERE account_id = ? ORDER BY key", (account,))]


@pytest.mark.parametrize("count", [0, 1, 3, 64, 101])
async def test_many_rows_are_stored_whatever_their_number(database: Database, count: int) -> None:
    assert await database.write("a", put_many, count) == list(range(count))


async def test_more_than_can_be_under_way_at_once_is_sent(database: Database) -> None:
    """Both sides have more to say than the buffers between them hold."""
    large = "x" * 4_000_000

    def echo(tx: Transaction, account: str, items: Sequence[int]) -> list[list[int]]:
        return [[len(tx.fetch_all("SELECT CAST(? AS text)", (large,))[0][0]) for _ in range(3)] for _ in items]

    answers = await asyncio.gather(*(database.write_together(f"account {n}", echo, n) for n in range(8)))
    assert answers == [[len(large)] * 3] * 8
