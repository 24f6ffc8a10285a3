"""What SQLite and aiosqlite do unless they are told otherwise: locks, durability, types, threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from happy_light.bus import Bus
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.store import Database, Transaction, writer

ACCOUNT = "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, 0, 0)"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Database]:
    store = Database(tmp_path / "db", Bus())
    await store.open()
    yield store
    await store.close()


def other(tmp_path: Path, timeout: float = 0) -> closing[sqlite3.Connection]:
    """Another program at the same database."""
    return closing(sqlite3.connect(tmp_path / "db", isolation_level=None, timeout=timeout, check_same_thread=False))


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),  # else readers and the writer wait for each other
        ("synchronous", 2),  # FULL: in WAL mode, NORMAL loses acknowledged commits when the power fails
        ("foreign_keys", 1),  # off by default, for each connection anew
        ("busy_timeout", 5000),  # else a backup makes writes fail at once
        ("journal_size_limit", 64 * 1024 * 1024),  # else the log keeps the size of its largest burst for ever
        ("auto_vacuum", 2),  # INCREMENTAL; ignored once the first page is written, and WAL writes it
    ],
)
async def test_the_writer_is_set_up(store: Database, pragma: str, value: object) -> None:
    """SQLite's defaults are of 2004."""
    async with store._writer.execute(f"PRAGMA {pragma}") as cursor:
        assert await cursor.fetchone() == (value,)


async def test_a_write_holds_the_lock_before_it_reads(store: Database, tmp_path: Path) -> None:
    """A deferred BEGIN takes the lock at the first write: if another program wrote since the first read, that
    write fails at once, whatever busy_timeout says."""
    refused: list[str] = []
    with other(tmp_path) as connection:

        def read_then_write(tx: Transaction) -> int:
            tx.fetch_one("SELECT count(*) FROM accounts")
            try:
                connection.execute("INSERT INTO meta (key, value) VALUES ('theirs', '1')")
            except sqlite3.OperationalError as error:
                refused.append(str(error))
            return tx.execute(ACCOUNT, ("a", "key"))

        assert await store.write_for((), read_then_write) == 1
        assert refused == ["database is locked"]


async def test_a_write_waits_for_another_program(store: Database, tmp_path: Path) -> None:
    """Without busy_timeout an operator's shell or a backup makes writes fail."""
    with other(tmp_path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        write = store.write_for((), lambda tx: tx.execute(ACCOUNT, ("a", "key")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(write), 0.3)
        assert await store.read(lambda rx: rx.fetch_one("SELECT count(*) FROM accounts")) == (0,), "readers do not wait"
        connection.execute("COMMIT")
        assert await write == 1


async def test_every_table_is_strict(store: Database) -> None:
    """Without STRICT a column takes whatever it is given: text as a number, a number as text."""
    tables = await store.read(
        lambda rx: rx.fetch_all(
            "SELECT name, strict FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
    )
    assert len(tables) > 15
    assert [name for name, strict in tables if not strict] == []


async def test_no_thread_outlives_its_store_and_none_an_open_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aiosqlite connection that is not closed keeps the process alive for ever."""
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before and "asyncio" not in thread.name]

    store = Database(tmp_path / "db", Bus())
    await store.open()
    threads = ours()
    assert len(threads) == 3
    await store.close()
    for thread in threads:
        thread.join(10)
    assert ours() == []
    with monkeypatch.context() as patched:
        patched.setattr(writer, "_PRAGMAS", ("PRAGMA journal_mode = WAL", "no SQL"))
        with pytest.raises(OperatorError, match="cannot be used"):
            await Database(tmp_path / "db", Bus()).open()
    for thread in ours():
        thread.join(10)
    assert ours() == []


async def test_what_a_failing_database_says_stays_in_the_log(store: Database, tmp_path: Path) -> None:
    """SQLite's errors name tables, columns and paths."""

    def broken(tx: Transaction) -> None:
        tx.execute("SELECT nothing FROM nowhere")

    with pytest.raises(ServiceUnavailable) as error:
        await store.write_for((), broken)
    assert "nowhere" not in str(error.value)
