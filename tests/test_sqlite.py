"""What is SQLite's own: locks, durability, types, threads, full disks."""

from __future__ import annotations

import _sqlite3
import asyncio
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from happy_light.bus import Audience, Bus, Ephemeral
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.store import Database, SqliteEngine, Transaction
from happy_light.store.sqlite import engine
from tests.stores import Body, Heard, Held, add_account, keys, listening_bus, number, put, seq_of, updates

ACCOUNT = "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, 0, 0)"


@pytest.fixture
def heard() -> Heard:
    """Return the events that the bus delivered."""
    return []


@pytest.fixture
async def database(tmp_path: Path, heard: Heard) -> AsyncIterator[Database]:
    """Return an open database without accounts."""
    database = Database(SqliteEngine(tmp_path / "db"), listening_bus(heard))
    await database.open()
    yield database
    await database.close()


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
async def test_the_writer_is_set_up(database: Database, pragma: str, value: object) -> None:
    """SQLite's defaults are of 2004."""
    assert await database.write_for((), lambda tx: tx.fetch_one(f"PRAGMA {pragma}")) == (value,)


async def test_a_write_holds_the_lock_before_it_reads(database: Database, tmp_path: Path) -> None:
    """A deferred BEGIN takes the lock at the first write.

    If another program wrote since the first read, that write fails at once, whatever busy_timeout says.
    """
    refused: list[str] = []
    with other(tmp_path) as connection:

        def read_then_write(tx: Transaction) -> int:
            tx.fetch_one("SELECT count(*) FROM accounts")
            try:
                connection.execute("INSERT INTO meta (key, value) VALUES ('theirs', '1')")
            except sqlite3.OperationalError as error:
                refused.append(str(error))
            return tx.execute(ACCOUNT, ("a", "key"))

        assert await database.write_for((), read_then_write) == 1
        assert refused == ["database is locked"]


async def test_a_write_waits_for_another_program(database: Database, tmp_path: Path) -> None:
    """Without busy_timeout an operator's shell or a backup makes writes fail."""
    with other(tmp_path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        write = database.write_for((), lambda tx: tx.execute(ACCOUNT, ("a", "key")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(write), 0.3)
        assert await database.read(lambda rx: rx.fetch_one("SELECT count(*) FROM accounts")) == (0,), (
            "readers do not wait"
        )
        connection.execute("COMMIT")
        assert await write == 1


async def test_every_table_is_strict(database: Database) -> None:
    """Without STRICT a column takes whatever it is given: text as a number, a number as text."""
    tables = await database.read(
        lambda rx: rx.fetch_all(
            "SELECT name, strict FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
    )
    assert len(tables) > 15
    assert [name for name, strict in tables if not strict] == []


async def test_no_thread_outlives_its_store_and_none_an_open_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is left keeps the process alive for ever."""
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before and "asyncio" not in thread.name]

    database = Database(SqliteEngine(tmp_path / "db"), Bus())
    await database.open()
    threads = ours()
    assert len(threads) == 6, "aiosqlite's and ours, for each connection"
    await database.close()
    for thread in threads:
        thread.join(10)
    assert ours() == []
    with monkeypatch.context() as patched:
        patched.setattr(engine, "_READER_PRAGMAS", ("PRAGMA query_only = ON", "no SQL"))
        with pytest.raises(OperatorError, match="cannot be used"):
            await Database(SqliteEngine(tmp_path / "db"), Bus()).open()
    for thread in ours():
        thread.join(10)
    assert ours() == []


async def test_what_a_failing_database_says_stays_in_the_log(database: Database, tmp_path: Path) -> None:
    """SQLite's errors name tables, columns and paths."""

    def broken(tx: Transaction) -> None:
        tx.execute("SELECT nothing FROM nowhere")

    with pytest.raises(ServiceUnavailable) as error:
        await database.write_for((), broken)
    assert "nowhere" not in str(error.value)


def run_pragma(database: Database, text: str) -> asyncio.Future[tuple[Any, ...] | None]:
    """Run a pragma on the writing connection."""
    return database.write_for((), lambda tx: tx.fetch_one(f"PRAGMA {text}"))


async def test_a_commit_that_fails_fails_only_the_write_that_spoils_it(database: Database, heard: Heard) -> None:
    def orphan(tx: Transaction) -> None:
        """Break a rule that the database checks at the commit only."""
        tx.execute("PRAGMA defer_foreign_keys = ON")
        tx.execute(
            "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) "
            "VALUES ('nobody', 'k', x'00', 0, 0, 0)"
        )
        tx.publish(Ephemeral(Audience("a"), Body(99)))

    await database.write_for((), add_account, "a")
    held = await Held(database).started()
    writes: list[asyncio.Future[Any]] = [
        database.write("a", put, 1), database.write_for((), orphan), database.write("a", put, 2)
    ]  # fmt: skip
    await held.release()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], sqlite3.IntegrityError)
    assert [number(event) for event in heard] == [1, -1, 2, -2]
    assert [event.seq for event in updates(heard)] == [1, 2]


async def test_a_full_disk_refuses_what_does_not_fit_until_there_is_room(database: Database, heard: Heard) -> None:
    def fill(tx: Transaction, account_id: str, n: int) -> int:
        put(tx, account_id, n)
        tx.execute("UPDATE kv SET value = zeroblob(100000) WHERE key = ?", (f"{n:09}",))
        return n

    await database.write_for((), add_account, "a")
    await database.write("a", put, 0)
    pages = await run_pragma(database, "page_count")
    assert pages is not None
    await run_pragma(database, f"max_page_count = {pages[0] + 100}")
    results = await asyncio.gather(*(database.write("a", fill, n) for n in range(1, 20)), return_exceptions=True)
    stored = [result for result in results if isinstance(result, int)]
    refused = [result for result in results if not isinstance(result, int)]
    assert stored
    assert refused
    assert all(isinstance(result, ServiceUnavailable) for result in refused)
    assert await database.read(keys, "a") == [0, *stored]
    assert await database.read(seq_of, "a") == len(stored) + 1
    await run_pragma(database, "max_page_count = 1073741823")
    assert await database.write("a", fill, 500) == 500
    assert [event.seq for event in updates(heard)] == list(range(1, len(stored) + 3))
    assert await database.read(lambda tx: tx.fetch_all("PRAGMA integrity_check")) == [("ok",)]


async def test_writes_that_another_program_keeps_out_are_refused_together(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tried one by one, each would wait for busy_timeout."""
    await database.write_for((), add_account, "a")
    await run_pragma(database, "busy_timeout = 100")
    with other(tmp_path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(database.write("a", put, n) for n in range(200)), return_exceptions=True)
        assert all(isinstance(result, ServiceUnavailable) for result in results)
        attempts = [record for record in caplog.records if "writes are refused" in record.getMessage()]
        assert 0 < len(attempts) < 20
        connection.execute("ROLLBACK")
    assert await database.write("a", put, 1) == 1


CHILD = """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from happy_light.bus import Bus
    from happy_light.errors import ServiceUnavailable
    from happy_light.store import Database, SqliteEngine

    async def main():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        database = Database(SqliteEngine(Path(sys.argv[1])), Bus())
        await database.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        stored = refused = 0
        for n in range(100):
            try:
                await database.write_for((), lambda tx: tx.execute(
                    "INSERT INTO meta (key, value) VALUES (?, ?)", (str(stored), "x" * 10_000)))
                stored += 1
            except ServiceUnavailable:
                refused += 1
        assert stored and refused, (stored, refused)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for n in range(5):
            await database.write_for((), lambda tx: tx.execute(
                "INSERT INTO meta (key, value) VALUES (?, 'y')", (f"after {n}",)))
        count = await database.read(lambda rx: rx.fetch_one("SELECT count(*) FROM meta")[0])
        assert count == stored + 5, (count, stored)
        assert await database.read(lambda rx: rx.fetch_one("PRAGMA integrity_check")[0]) == "ok"
        await database.close()
        print("fine")

    asyncio.run(main())
"""


def test_a_disk_that_is_really_full_is_refused_and_forgiven_without_a_restart(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "db")],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout.strip() == "fine", done.stderr


COUNTED = """
    import _sqlite3
    import ctypes
    import sys
    from pathlib import Path
    from happy_light.commands.serve import ephemeral
    from happy_light.server import process

    def ready(server):
        library = ctypes.CDLL(_sqlite3.__file__)
        print(library.sqlite3_memory_used() if hasattr(library, "sqlite3_memory_used") else 0)
        server.stop()

    process.run(ephemeral(Path(sys.argv[1]), {}), ready)
"""


@pytest.mark.skipif(not hasattr(_sqlite3, "__file__"), reason="SQLite is a part of the interpreter")
def test_a_server_does_not_let_sqlite_count_its_memory(tmp_path: Path) -> None:
    """The count is behind one lock of the process, where lists that are read at the same time wait for each other."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNTED), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
