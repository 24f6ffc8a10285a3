"""What the store promises of reads, whatever the engine: what they see, what they refuse, lists and counts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from happy_light.errors import ServiceUnavailable
from happy_light.store import Database, ReadTransaction, SizeLimit
from tests.stores import Held, Stored, keys, put, seq_of

pytest_plugins = ["tests.service_fixtures", "tests.store_fixtures"]


async def test_a_read_sees_what_was_acknowledged_and_does_not_wait_for_the_writer(database: Database) -> None:
    for n in range(20):
        await database.write("a", put, n)
        assert (await database.read(keys, "a"))[-1] == n
    held = await Held(database).started()
    assert len(await asyncio.wait_for(database.read(keys, "a"), 10)) == 20
    await held.release()


async def test_a_list_is_read_only_if_each_of_its_rows_is_small(database: Database) -> None:
    def found(tx: ReadTransaction, account: str, most: int) -> tuple[Any, int, Any]:
        source = "FROM kv WHERE account_id = ? ORDER BY key DESC LIMIT ?"
        limit = SizeLimit(tx.size_of("key"), most)
        rows, count, last = tx.fetch_small_json(Stored, "key, version", source, (account, 2), limit, "min(key)")
        return None if rows is None else msgspec.json.decode(msgspec.json.encode(rows)), count, last

    for n in range(3):
        await database.write("a", put, n)
    listed = [{"key": "000000002", "version": 0}, {"key": "000000001", "version": 0}]
    assert await database.read(found, "a", 9) == (listed, 2, "000000001")
    assert await database.read(found, "a", 8) == (None, 0, None)
    assert await database.read(found, "b", 9) == ([], 0, None)


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read.?only|cannot read"):
        await database.read(lambda tx: tx.fetch_all("DELETE FROM accounts RETURNING id"))
    assert await database.read(seq_of, "a") == 0


async def test_too_many_waiting_reads_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.store.read_queue.WAITING_MAX", 3)
    release, busy = threading.Event(), threading.Semaphore(0)

    def block() -> bool:
        busy.release()
        return release.wait(20)

    def answer(tx: ReadTransaction, n: int) -> int:
        return n

    held = [database.read(lambda tx: block()) for _ in range(2)]  # one for each reading thread
    for _ in held:
        assert await asyncio.to_thread(busy.acquire, timeout=20)
    reads = [database.read(answer, n) for n in range(6)]
    with pytest.raises(ServiceUnavailable, match="Too many reads"):
        database.read(lambda tx: 7)
    release.set()
    assert await asyncio.gather(*held) == [True, True]
    assert await asyncio.gather(*reads) == list(range(6))
    assert await database.read(lambda tx: 8) == 8


async def test_rows_are_counted_and_a_slow_count_is_used_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("happy_light.store.database.COUNT_SHARE", 0)
    assert await database.row_counts(("accounts", "kv")) == {"accounts": 2, "kv": 0}
    await database.write("a", put, 1)
    assert await database.row_counts(("accounts", "kv")) == {"accounts": 2, "kv": 1}
    monkeypatch.setattr("happy_light.store.database.COUNT_SHARE", 10**9)
    await database.row_counts(("accounts", "kv"))
    await database.write("a", put, 2)
    assert await database.row_counts(("kv",)) == {"kv": 1}
    assert await database.row_counts(("sessions",)) == {"sessions": 0}, "another table is counted now"
