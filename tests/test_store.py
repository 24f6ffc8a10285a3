"""What the store promises of writes, whatever the engine: groups, order, seq, failures, callers that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from happy_light.bus import Audience, Bus, Ephemeral, SignedOut, Update
from happy_light.errors import BadRequest, ServiceUnavailable
from happy_light.store import Database, ReadTransaction, Transaction
from happy_light.store.postgres.connection import PostgresConnection
from happy_light.store.postgres.writer import PostgresWriter
from happy_light.store.sqlite.engine import SqliteWriter
from tests.stores import Body, Heard, Held, NewEngine, add_account, keys, number, put, seq_of, updates

pytest_plugins = ["tests.service_fixtures", "tests.store_fixtures"]


async def test_writes_that_wait_share_one_commit(database: Database) -> None:
    before = database.commits.count, database.writes
    held = await Held(database).started()
    writes = [database.write("a", put, n) for n in range(100)]
    assert database.waiting == 100
    await held.release()
    await asyncio.gather(*writes)
    assert (database.commits.count, database.writes) == (before[0] + 2, before[1] + 101)
    assert await database.read(keys, "a") == list(range(100))


async def test_a_group_for_which_the_time_is_up_leaves_the_rest_to_the_next(
    database: Database, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.commits.count
    monkeypatch.setattr(PostgresWriter, "group_seconds", 0)
    monkeypatch.setattr(SqliteWriter, "group_seconds", 0)
    held = await Held(database).started()
    writes = [database.write("a", put, n) for n in range(5)]
    await held.release()
    assert await asyncio.gather(*writes) == list(range(5))
    assert database.commits.count == before + 6
    assert [(number(event), event.seq) for event in updates(heard)] == [(n, n + 1) for n in range(5)]


Item = tuple[str, int | Exception]


def count_up(tx: Transaction, account: str, items: Sequence[Item]) -> list[tuple[int, int] | Exception]:
    """Add a number to each key and announce the sums; return them with the number of items, or the item's error."""
    tx.fetch_all("SELECT key FROM kv WHERE account_id = ?", (account,))
    results: list[tuple[int, int] | Exception] = []
    for key, n in items:
        if isinstance(n, Exception):
            results.append(n)
            continue
        row = tx.fetch_one("SELECT version FROM kv WHERE account_id = ? AND key = ?", (account, key))
        following = n if row is None else int(row[0]) + n
        tx.queue(
            "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, ?, 0, 0) "
            "ON CONFLICT (account_id, key) DO UPDATE SET version = excluded.version",
            (account, key, b"x", following),
        )
        tx.publish(Update(Audience(account), Body(following)))
        results.append((following, len(items)))
    return results


def count_all(tx: Transaction, account: str) -> int:
    """Return the sum of the numbers of all keys; a write, so it has its place among the others."""
    row = tx.fetch_one("SELECT CAST(coalesce(sum(version), 0) AS bigint) FROM kv WHERE account_id = ?", (account,))
    assert row is not None
    return int(row[0])


async def test_writes_that_run_together_see_all_that_were_before_them(database: Database, heard: Heard) -> None:
    before = database.commits.count
    held = await Held(database).started()
    writes: list[asyncio.Future[tuple[int, int]]] = []
    sums: dict[tuple[str, str], int] = {}
    expected: list[tuple[int, int]] = []
    for n in range(20):
        account, key = "ab"[n % 2], f"key {n % 3}"
        sums[account, key] = sums.get((account, key), 0) + n
        expected.append((sums[account, key], 10 if n < 18 else 1))
        if n == 18:
            count = database.write("a", count_all)
        writes.append(database.write_together(account, count_up, (key, n)))
    await held.release()
    results = await asyncio.gather(*writes)
    assert [sum for sum, _ in results] == [sum for sum, _ in expected]
    assert [together for _, together in results] == [9] * 18 + [1] * 2
    assert await count == sum(range(0, 18, 2))
    assert database.commits.count == before + 2
    for account, first in (("a", 0), ("b", 1)):
        mine = [event for event in updates(heard) if event.audience.account_id == account]
        told = [(number(event), event.seq) for event in mine]
        assert told == [(sum, seq) for seq, (sum, _) in enumerate(expected[first::2], 1)]
        assert await database.read(seq_of, account) == 10


async def test_of_writes_that_run_together_one_fails_alone(database: Database, heard: Heard) -> None:
    """It is told its error, and if the database refuses it, the others are run without it."""
    before = database.commits.count
    held = await Held(database).started()
    error = BadRequest("no")
    items: list[Item] = [("x", 1), ("x", error), ("x", 2)]
    writes = [database.write_together("a", count_up, item) for item in items]
    await held.release()
    assert await asyncio.gather(*writes, return_exceptions=True) == [(1, 3), error, (3, 3)]
    assert database.commits.count == before + 2
    held = await Held(database).started()
    items = [("x", 1), ("y", 2**63 - 1), ("y", 1), ("x", 2)]
    writes = [database.write_together("a", count_up, item) for item in items]
    await held.release()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(results.pop(2), Exception)
    assert results == [(4, 1), (2**63 - 1, 1), (6, 1)]
    told = [(number(event), event.seq) for event in updates(heard)]
    assert told == [(1, 1), (3, 2), (4, 3), (2**63 - 1, 4), (6, 5)]


async def test_writes_that_run_together_and_do_not_begin_with_a_query(database: Database) -> None:
    """They are not sent before it is their turn: each happens once, and not at all if it fails."""
    raising = "UPDATE kv SET version = version + 1 WHERE account_id = ? AND key = ?"

    def add_one(tx: Transaction, account: str, keys: Sequence[str]) -> Sequence[None]:
        tx.executemany(raising, [(account, key) for key in keys])
        return [None] * len(keys)

    def fail(tx: Transaction, account: str, keys: Sequence[str]) -> Sequence[None]:
        tx.execute(raising, (account, keys[0]))
        raise BadRequest("no")

    def versions(tx: ReadTransaction) -> list[Any]:
        return tx.fetch_all("SELECT account_id, version FROM kv ORDER BY account_id")

    for account in "ab":
        await database.write_together(account, count_up, ("x", 1))
    for last, others in ((add_one, [2, 2]), (fail, [3, 2])):
        held = await Held(database).started()
        writes = [database.write_together("a", add_one, "x"), database.write_together("b", last, "x")]
        await held.release()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [isinstance(result, BadRequest) for result in results] == [False, last is fail]
        assert [version for _, version in await database.read(versions)] == others


@pytest.mark.parametrize("engine_name", ["postgres"], indirect=True)
async def test_first_queries_for_different_accounts_are_sent_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    read_ahead = PostgresConnection.read_ahead

    def count(self: PostgresConnection, operations: Sequence[Callable[[], object]]) -> None:
        together.append(len(operations))
        read_ahead(self, operations)

    monkeypatch.setattr(PostgresConnection, "read_ahead", count)
    held = await Held(database).started()
    writes = [database.write_together("ab"[n % 2], count_up, ("x", 1)) for n in range(10)]
    await held.release()
    assert await asyncio.gather(*writes) == [(n, 5) for n in range(1, 6) for _ in "ab"]
    assert together == [2]


async def test_a_failing_write_fails_alone(database: Database, heard: Heard, engine_name: str) -> None:
    before = database.commits.count
    held = await Held(database).started()
    errors: dict[int, Exception] = {1: BadRequest("no"), 3: ValueError("bad")}
    writes = [database.write("a", put, n, errors.get(n)) for n in range(5)]
    writes.append(database.write("a", put, 0))  # breaks a constraint of the database
    await held.release()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(result, int) for result in results] == [True, False, True, False, True, False]
    assert [results[1], results[3]] == [errors[1], errors[3]]
    assert await database.read(keys, "a") == [0, 2, 4]
    assert [(number(event), event.seq) for event in updates(heard)] == [(0, 1), (2, 2), (4, 3)]
    assert len(heard) == 6, "the failed ones sent no ephemeral event either"
    assert await database.read(seq_of, "a") == 3
    again = 1 if engine_name == "sqlite" else 3  # with savepoints, or one by one
    assert database.commits.count == before + 1 + again


@pytest.mark.parametrize(
    ("failing", "runs"),
    [
        ("before it writes", 2),
        ("after it wrote", 3),  # what came before it runs again
        ("after it wrote with RETURNING", 3),
    ],
)
async def test_a_group_runs_again_only_if_a_failed_write_has_left_something(
    database: Database, heard: Heard, failing: str, runs: int
) -> None:
    count = 0

    def good(tx: Transaction, account_id: str, n: int) -> int:
        nonlocal count
        count += 1
        return put(tx, account_id, n)

    def bad(tx: Transaction, account_id: str) -> None:
        if failing == "after it wrote":
            put(tx, account_id, 99)
        elif failing == "after it wrote with RETURNING":
            tx.fetch_one("UPDATE accounts SET seq = 77 WHERE id = ? RETURNING seq", (account_id,))
        raise BadRequest("no")

    held = await Held(database).started()
    first, failed, last = database.write("a", good, 1), database.write("a", bad), database.write("a", good, 2)
    await held.release()
    assert (await first, await last) == (1, 2)
    with pytest.raises(BadRequest):
        await failed
    assert count == runs
    assert await database.read(keys, "a") == [1, 2]
    assert [(number(event), event.seq) for event in updates(heard)] == [(1, 1), (2, 2)]
    assert len(heard) == 4


async def test_a_write_that_fails_without_company_leaves_nothing(database: Database, heard: Heard) -> None:
    with pytest.raises(BadRequest):
        await database.write("a", put, 1, BadRequest("no"))
    assert await database.read(keys, "a") == []
    assert await database.read(seq_of, "a") == 0
    assert heard == []


async def test_seq_has_no_gap_and_is_in_the_order_of_commits_for_each_account(database: Database, heard: Heard) -> None:
    async def writer(who: int) -> None:
        for i in range(50):
            n = who * 1000 + i
            with contextlib.suppress(BadRequest):
                await database.write("ab"[n % 2], put, n, BadRequest("no") if n % 7 == 0 else None)

    await asyncio.gather(*(writer(who) for who in range(8)))
    for account in "ab":
        mine = [event for event in updates(heard) if event.audience.account_id == account]
        assert [event.seq for event in mine] == list(range(1, len(mine) + 1))
        assert await database.read(seq_of, account) == len(mine) > 0
        assert sorted(map(number, mine)) == await database.read(keys, account)


async def test_events_come_before_their_writer_wakes_and_in_the_order_of_the_calls(
    database: Database, heard: Heard
) -> None:
    woken: list[int] = []

    async def one(n: int) -> None:
        await database.write("a", put, n)
        woken.append(n)
        assert n in map(number, heard)

    await asyncio.gather(*(one(n) for n in range(50)))
    assert [number(event) for event in updates(heard)] == list(range(50))
    assert woken == list(range(50))


async def test_an_update_keeps_the_socket_that_must_not_receive_it(database: Database, heard: Heard) -> None:
    await database.write("a", lambda tx, id: tx.publish(Update(Audience.session(id, "s"), Body(5), "socket")))
    (event,) = updates(heard)
    assert (event.audience, event.seq, event.skip) == (("a", "session", "s"), 1, "socket")


async def test_of_an_account_that_the_group_deletes_no_update_is_sent(database: Database, heard: Heard) -> None:
    def delete(tx: Transaction, account_id: str) -> None:
        tx.execute("DELETE FROM accounts WHERE id = ?", (account_id,))

    held = await Held(database).started()
    writes: list[asyncio.Future[Any]] = [
        database.write("a", put, 1), database.write("b", put, 2), database.write("a", delete)
    ]  # fmt: skip
    await held.release()
    await asyncio.gather(*writes)
    assert [(event.audience.account_id, event.seq) for event in updates(heard)] == [("b", 1)]


async def test_internal_messages_are_published_after_the_commit_and_only_then(new_engine: NewEngine) -> None:
    bus = Bus()
    told: list[SignedOut] = []
    bus.subscribe(SignedOut, told.append)
    database = Database(new_engine(), bus)
    await database.open()

    def announce(tx: Transaction, id: str, fail: bool) -> None:
        tx.publish(SignedOut(id))
        if fail:
            raise BadRequest("no")

    await database.write("a", announce, False)
    with pytest.raises(BadRequest):
        await database.write("b", announce, True)
    assert told == [SignedOut("a")]
    await database.close()


async def test_a_subscriber_that_fails_keeps_nobody_waiting(database: Database, new_engine: NewEngine) -> None:
    def broken(event: Ephemeral) -> None:
        raise ValueError("broken")

    bus = Bus()
    heard: list[Ephemeral] = []
    bus.subscribe(Ephemeral, broken)
    bus.subscribe(Ephemeral, heard.append)
    other = Database(new_engine(), bus)
    await other.open()
    assert await other.write("a", put, 1) == 1
    assert len(heard) == 1
    await other.close()


async def test_a_caller_that_goes_away_does_not_cancel_its_write(database: Database, heard: Heard) -> None:
    """asyncio cancels the future that a cancelled task waits for."""
    held = await Held(database).started()
    write, other = database.write("a", put, 1), database.write("a", put, 2)
    write.cancel()
    await held.release()
    assert await other == 2
    assert await database.read(keys, "a") == [1, 2]
    assert [number(event) for event in updates(heard)] == [1, 2]


async def test_close_finishes_what_waits_and_refuses_what_comes(new_engine: NewEngine) -> None:
    database = Database(new_engine(), Bus())
    await database.open()
    await database.write_for((), add_account, "a")
    writes = [database.write("a", put, n) for n in range(50)]
    reads = [database.read(seq_of, "a") for _ in range(20)]
    await database.close()
    assert await asyncio.gather(*writes) == list(range(50))
    assert len(await asyncio.gather(*reads)) == 20
    with pytest.raises(ServiceUnavailable):
        database.write("a", put, 51)
    with pytest.raises(ServiceUnavailable):
        database.read(keys, "a")
    await database.close()
    again = Database(new_engine(), Bus())
    await again.open()
    assert await again.read(keys, "a") == list(range(50))
    await again.close()


async def test_too_many_waiting_writes_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.store.group_commit.WAITING_MAX", 10)
    held = await Held(database).started()
    writes = [database.write("a", put, n) for n in range(10)]
    with pytest.raises(ServiceUnavailable, match="Too many writes"):
        database.write("a", put, 11)
    await held.release()
    await asyncio.gather(*writes)
    assert await database.write("a", put, 11) == 11


async def test_a_lease_is_held_by_one_process(database: Database) -> None:
    async with database.lease("sweep") as granted:
        assert granted
