"""The store by itself: what it promises holds when writes fail, disks fill and callers go away."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from happy_light import wire
from happy_light.bus import Audience, Bus, Committed, Ephemeral, Update
from happy_light.errors import BadRequest, ServiceUnavailable
from happy_light.store import Database, ReadTransaction, Transaction


class Body(msgspec.Struct):
    """What an event says here."""

    n: int


@pytest.fixture
def heard() -> list[Committed | Ephemeral]:
    """What came over the bus."""
    return []


@pytest.fixture
async def store(tmp_path: Path, heard: list[Committed | Ephemeral]) -> AsyncIterator[Database]:
    """An open store with the accounts a and b."""
    bus = Bus()
    bus.subscribe(Committed, heard.append)
    bus.subscribe(Ephemeral, heard.append)
    store = Database(tmp_path / "db", bus)
    await store.open()
    await store.write_for((), add_account, "a")
    await store.write_for((), add_account, "b")
    yield store
    await store.close()


def add_account(tx: Transaction, id: str) -> None:
    tx.execute("INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, 0, 0)", (id, f"key {id}"))


def put(tx: Transaction, n: int, account: str = "a", fail: Exception | None = None) -> int:
    """Stores and announces a number, and then perhaps fails."""
    tx.execute("INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, 0, 0, 0)",
               (account, f"{n:09}", b"x"))  # fmt: skip
    tx.publish(Update(Audience(account), Body(n)), Ephemeral(Audience(account), Body(-n)))
    if fail is not None:
        raise fail
    return n


def number(event: Committed | Ephemeral) -> int:
    """Return what the event says."""
    body = event.body if isinstance(event, Ephemeral) else wire.decode(event.frame)["body"]
    return int(body.n if isinstance(body, Body) else body["n"])


def updates(heard: list[Committed | Ephemeral]) -> list[Committed]:
    return [event for event in heard if isinstance(event, Committed)]


def keys(rx: ReadTransaction, account: str = "a") -> list[int]:
    return [int(key) for (key,) in rx.fetch_all("SELECT key FROM kv WHERE account_id = ? ORDER BY key", (account,))]


def seq_of(rx: ReadTransaction, account: str = "a") -> int:
    row = rx.fetch_one("SELECT seq FROM accounts WHERE id = ?", (account,))
    assert row is not None
    return int(row[0])


def hold(store: Database) -> tuple[threading.Event, asyncio.Future[None]]:
    """Keeps the writer busy until the event is set, so that what follows waits together."""
    release = threading.Event()
    return release, store.write_for((), lambda tx: assert_set(release))


def assert_set(release: threading.Event) -> None:
    assert release.wait(20)


async def test_writes_that_wait_share_one_commit(store: Database, tmp_path: Path) -> None:
    commits: list[str] = []
    await store._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    release, held = hold(store)
    await asyncio.sleep(0.05)
    writes = [store.write_for((), put, n) for n in range(100)]
    release.set()
    await asyncio.gather(held, *writes)
    assert len(commits) == 2
    assert await store.read(keys) == list(range(100))


async def test_a_failing_write_fails_alone(store: Database, heard: list[Committed | Ephemeral]) -> None:
    release, _ = hold(store)
    await asyncio.sleep(0.05)
    writes = [
        store.write_for((), put, n, "a", BadRequest("no") if n == 1 else ValueError("bad") if n == 3 else None)
        for n in range(5)
    ]
    writes.append(store.write_for((), put, 0))  # breaks a constraint of the database
    release.set()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [int, BadRequest, int, ValueError, int, sqlite3.IntegrityError]
    assert await store.read(keys) == [0, 2, 4]
    assert [(number(event), event.seq) for event in updates(heard)] == [(0, 1), (2, 2), (4, 3)]
    assert len(heard) == 6  # of the failed ones no ephemeral left either
    assert await store.read(seq_of) == 3


async def test_seq_has_no_gap_and_is_in_the_order_of_commits_for_each_account(
    store: Database, heard: list[Committed | Ephemeral]
) -> None:
    async def writer(who: int) -> None:
        for i in range(50):
            n = who * 1000 + i
            with contextlib.suppress(BadRequest):
                await store.write_for((), put, n, "ab"[n % 2], BadRequest("no") if n % 7 == 0 else None)

    await asyncio.gather(*(writer(who) for who in range(8)))
    for account in "ab":
        mine = [event for event in updates(heard) if event.audience.account_id == account]
        assert [event.seq for event in mine] == list(range(1, len(mine) + 1))
        assert await store.read(seq_of, account) == len(mine)
        assert sorted(map(number, mine)) == await store.read(keys, account)


async def test_events_come_before_their_writer_wakes_and_in_the_order_of_the_calls(
    store: Database, heard: list[Committed | Ephemeral]
) -> None:
    woken: list[int] = []

    async def one(n: int) -> None:
        await store.write_for((), put, n)
        woken.append(n)
        assert n in map(number, heard)

    await asyncio.gather(*(one(n) for n in range(50)))
    assert [number(event) for event in updates(heard)] == list(range(50))
    assert woken == list(range(50))


async def test_effects_after_the_commit_come_before_the_caller_and_only_then(store: Database) -> None:
    effects: list[str] = []

    def write(tx: Transaction, fail: bool) -> None:
        tx.after_commit(lambda: effects.append("failed" if fail else "good"))
        if fail:
            raise BadRequest("no")

    def broken(tx: Transaction) -> str:
        tx.after_commit(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        return "stored"

    await store.write_for((), write, False)
    assert effects == ["good"]
    with pytest.raises(BadRequest):
        await store.write_for((), write, True)
    assert await store.write_for((), broken) == "stored"
    assert effects == ["good"]


async def test_a_caller_that_goes_away_does_not_cancel_its_write(
    store: Database, heard: list[Committed | Ephemeral]
) -> None:
    """asyncio cancels what a task waits for when the task is cancelled, as that of a client which left is."""
    release, _ = hold(store)
    write = store.write_for((), put, 1)
    other = store.write_for((), put, 2)
    write.cancel()
    release.set()
    assert await other == 2
    assert await store.read(keys) == [1, 2]
    assert [number(event) for event in updates(heard)] == [1, 2]


async def test_a_read_sees_what_was_acknowledged_and_does_not_wait_for_the_writer(store: Database) -> None:
    for n in range(20):
        await store.write_for((), put, n)
        assert (await store.read(keys))[-1] == n
    release, held = hold(store)
    assert len(await asyncio.wait_for(store.read(keys), 10)) == 20
    release.set()
    await held


async def test_a_read_cannot_write(store: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await store.read(lambda rx: rx.fetch_all("DELETE FROM accounts RETURNING id"))
    assert await store.read(seq_of) == 0


async def test_a_commit_that_fails_is_nobodys_success(store: Database, heard: list[Committed | Ephemeral]) -> None:
    def orphan(tx: Transaction) -> None:
        """Breaks a rule that the database looks at only when it commits."""
        tx.execute("PRAGMA defer_foreign_keys = ON")
        tx.execute("INSERT INTO kv (account_id, key, value, version, created_at, updated_at) "
                   "VALUES ('nobody', 'k', x'00', 0, 0, 0)")  # fmt: skip
        tx.publish(Ephemeral(Audience("a"), Body(99)))

    release, _ = hold(store)
    await asyncio.sleep(0.05)
    writes = [store.write_for((), put, 1), store.write_for((), orphan), store.write_for((), put, 2)]
    release.set()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], sqlite3.IntegrityError)
    assert results[2] == 2
    assert [number(event) for event in heard] == [1, -1, 2, -2]
    assert [event.seq for event in updates(heard)] == [1, 2]


async def test_a_full_disk_is_refused_and_forgiven(store: Database, heard: list[Committed | Ephemeral]) -> None:
    def fill(tx: Transaction, n: int) -> int:
        put(tx, n)
        tx.execute("UPDATE kv SET value = zeroblob(100000) WHERE key = ?", (f"{n:09}",))
        return n

    await store.write_for((), put, 0)
    pages = await store.read(lambda rx: rx.fetch_all("PRAGMA page_count")[0][0])
    await store._writer.execute(f"PRAGMA max_page_count = {pages + 100}")
    results = await asyncio.gather(*(store.write_for((), fill, n) for n in range(1, 20)), return_exceptions=True)
    stored = [result for result in results if isinstance(result, int)]
    refused = [result for result in results if not isinstance(result, int)]
    assert stored
    assert refused
    assert all(isinstance(result, ServiceUnavailable) for result in refused)
    assert await store.read(keys) == [0, *stored]
    assert await store.read(seq_of) == len(stored) + 1
    await store._writer.execute("PRAGMA max_page_count = 1073741823")
    assert await store.write_for((), fill, 500) == 500
    seqs = [event.seq for event in updates(heard)]
    assert seqs == list(range(1, len(stored) + 3))
    assert await store.read(lambda rx: rx.fetch_all("PRAGMA integrity_check")) == [("ok",)]


async def test_a_database_that_another_program_holds_is_an_error_and_not_a_wait_without_end(
    store: Database, tmp_path: Path
) -> None:
    await store._writer.execute("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    started = loop.time()
    results = await asyncio.gather(*(store.write_for((), put, n) for n in range(200)), return_exceptions=True)
    assert all(isinstance(result, ServiceUnavailable) for result in results)
    assert loop.time() - started < 10  # not 200 times the wait
    other.execute("ROLLBACK")
    other.close()
    assert await store.write_for((), put, 1) == 1


async def test_close_finishes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    store = Database(tmp_path / "db", Bus())
    await store.open()
    await store.write_for((), add_account, "a")
    writes = [store.write_for((), put, n) for n in range(50)]
    await store.close()
    assert await asyncio.gather(*writes) == list(range(50))
    with pytest.raises(ServiceUnavailable):
        store.write_for((), put, 51)
    await store.close()
    again = Database(tmp_path / "db", Bus())
    await again.open()
    assert await again.read(keys) == list(range(50))
    await again.close()


async def test_too_many_waiting_writes_are_refused(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.store.writer._PENDING_MAX", 10)
    release, held = hold(store)
    await asyncio.sleep(0.05)
    writes = [store.write_for((), put, n) for n in range(10)]
    with pytest.raises(ServiceUnavailable):
        store.write_for((), put, 11)
    release.set()
    await asyncio.gather(held, *writes)
    assert await store.write_for((), put, 11) == 11


async def test_too_many_waiting_reads_are_refused(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.store.reader.WAITING_MAX", 3)
    release = threading.Event()
    held = [store.read(lambda rx: release.wait(10)) for _ in range(2)]  # one for each reading thread
    await asyncio.sleep(0.05)
    reads = [store.read(lambda rx, n=n: n) for n in range(6)]
    with pytest.raises(ServiceUnavailable):
        store.read(lambda rx: 7)
    release.set()
    assert await asyncio.gather(*held) == [True, True]
    assert await asyncio.gather(*reads) == list(range(6))
    assert await store.read(lambda rx: 8) == 8


async def test_a_closed_store_refuses_reads_at_once(tmp_path: Path) -> None:
    store = Database(tmp_path / "x.sqlite", Bus())
    await store.open()
    await store.close()
    with pytest.raises(ServiceUnavailable):
        store.read(lambda rx: 1)


CHILD = """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from happy_light.bus import Bus
    from happy_light.errors import ServiceUnavailable
    from happy_light.store import Database

    async def main():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Database(Path(sys.argv[1]), Bus())
        await store.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        stored = refused = 0
        for n in range(100):
            try:
                await store.write_for((), lambda tx: tx.execute(
                    "INSERT INTO meta (key, value) VALUES (?, ?)", (str(stored), "x" * 10_000)))
                stored += 1
            except ServiceUnavailable:
                refused += 1
        assert stored and refused, (stored, refused)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for n in range(5):
            await store.write_for((), lambda tx: tx.execute(
                "INSERT INTO meta (key, value) VALUES (?, 'y')", (f"after {n}",)))
        count = await store.read(lambda rx: rx.fetch_one("SELECT count(*) FROM meta")[0])
        assert count == stored + 5, (count, stored)
        assert await store.read(lambda rx: rx.fetch_one("PRAGMA integrity_check")[0]) == "ok"
        await store.close()
        print("fine")

    asyncio.run(main())
"""


def test_a_disk_that_is_really_full_is_refused_and_forgiven_without_a_restart(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "db")],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout.strip() == "fine", done.stderr
