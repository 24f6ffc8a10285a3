"""The database as the rest of the program uses it: reads, writes and leases, whatever the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, TypeVar

from happy_light.bus import Bus
from happy_light.counters import Timing
from happy_light.errors import ServiceUnavailable
from happy_light.store.account_versions import AccountVersions
from happy_light.store.engine import DiskUsage, Engine
from happy_light.store.group_commit import GroupCommit
from happy_light.store.read_queue import ReadQueue
from happy_light.store.transaction import ReadTransaction, Transaction

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

COUNT_SHARE = 100  # counting rows takes at most one part in so many of a reading connection's time


class Database:
    """The database of one server: `open`, then `write` and `read`, then `close`.

    An operation is a plain function of a transaction. Writes run one after the other on the writer's thread and
    share commits; reads have connections and threads of their own and never wait for the writer.
    """

    def __init__(self, engine: Engine, bus: Bus) -> None:
        self._engine = engine
        self._bus = bus
        self._readers: list[ReadQueue] = []
        self._next_reader = 0
        self._closed = True
        self.versions = None if engine.shared else AccountVersions()
        """None if other processes may write: this one would not know what has changed."""
        self._counts: dict[str, int] = {}
        self._counted_until = 0.0  # s of the monotonic clock

    async def open(self) -> None:
        """Create or migrate the database and connect to it. Raises OperatorError if that is impossible."""
        writer, readers = await self._engine.open()
        self._readers = [ReadQueue(reader) for reader in readers]
        self._writes = GroupCommit(writer, self._engine.dialect, self._bus, self.versions)
        self._closed = False

    async def close(self) -> None:
        """Finish the reads and writes that wait and disconnect. Later ones are refused."""
        if self._closed:
            return
        self._closed = True
        self._writes.close()
        await self._engine.close()

    # --------------------------------------------------------------------------------------- metrics
    @property
    def waiting(self) -> int:
        """How many writes wait."""
        return self._writes.waiting

    @property
    def writes(self) -> int:
        """How many writes were committed since the start."""
        return self._writes.writes

    @property
    def commits(self) -> Timing:
        """How many commits there were since the start and how long they took, their writes included."""
        return self._writes.commits

    # -------------------------------------------------------------------------------- reads and writes
    def read(
        self, operation: Callable[Concatenate[ReadTransaction, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]:
        """Run `operation(tx, …)` on a reading thread. It sees everything that was committed before.

        Raises what the operation raises, or ServiceUnavailable when the server stops or too many reads wait.
        """
        if self._closed:
            raise ServiceUnavailable("The server is stopping")
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        return self._readers[self._next_reader].read(lambda tx: operation(tx, *args, **kwargs))

    def write(
        self,
        account_id: str,
        operation: Callable[Concatenate[Transaction, str, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[R]:
        """Run `operation(tx, account_id, …)`, which changes what belongs to that account; see `write_for`."""
        return self._write((account_id,), lambda tx: operation(tx, account_id, *args, **kwargs))

    def write_together(
        self, account_id: str, operation: Callable[[Transaction, str, Sequence[T]], Sequence[R | Exception]], item: T
    ) -> asyncio.Future[R]:
        """Run `operation(tx, account_id, items)` with this item and those that wait next to it, in their order.

        The operation returns the result of each item, or an error for which it has written nothing. So many small
        writes of an account take few statements. Otherwise see `write_for`.
        """
        if self._closed:
            raise ServiceUnavailable("The server is stopping")
        return self._writes.write((account_id,), operation, item)

    def write_for(
        self,
        account_ids: Collection[str],
        operation: Callable[Concatenate[Transaction, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[R]:
        """Run `operation(tx, …)` on the writer's thread. The future is resolved when the commit is on disk.

        `account_ids` names every account whose rows the operation reads in order to change them or for which it
        publishes; () for rows that belong to no account. Writes run in the order of these calls. A caller that
        stops waiting does not cancel its write. The operation may run twice, so it changes nothing but the
        transaction. Raises what the operation raised (nothing of it is stored then), or ServiceUnavailable.
        """
        return self._write(account_ids, lambda tx: operation(tx, *args, **kwargs))

    def _write(self, account_ids: Collection[str], operation: Callable[[Transaction], R]) -> asyncio.Future[R]:
        if self._closed:
            raise ServiceUnavailable("The server is stopping")
        return self._writes.write(account_ids, operation)

    async def row_counts(self, tables: Sequence[str]) -> dict[str, int]:
        """Return how many rows the tables have, counted now or a short while ago.

        A count reads an index of the whole table, so its result is used again for COUNT_SHARE times as long as it took.
        """
        if time.monotonic() >= self._counted_until or not self._counts.keys() >= set(tables):
            self._counts, took = await self.read(_count, tables)
            self._counted_until = time.monotonic() + COUNT_SHARE * took
        return {table: self._counts[table] for table in tables}

    def lease(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Return a context that holds the lease `name`, so that a job runs in one process at a time.

        Its value is False if another process holds the lease; the job is then that process's.
        """
        return self._engine.lease(name)

    def shrink(self, tx: Transaction) -> int:
        """Give some free space back to the system. Return the bytes, or 0. It is a write operation."""
        return self._engine.shrink(tx)

    async def check(self) -> None:
        """Raise ServiceUnavailable with the reason if the database cannot be read, is gone, damaged or out of space."""
        if self._closed:
            raise ServiceUnavailable("The server is stopping")
        await self._engine.check()
        await self.read(_look)

    def disk_usage(self, tx: ReadTransaction) -> DiskUsage:
        """Return the sizes of the database in bytes. It is a read operation."""
        return self._engine.disk_usage(tx)


def _look(tx: ReadTransaction) -> None:
    """Read a little of some tables."""
    for table in ("accounts", "sessions", "messages", "machines"):
        tx.fetch_one(f"SELECT 1 FROM {table} LIMIT 1")


def _count(tx: ReadTransaction, tables: Sequence[str]) -> tuple[dict[str, int], float]:
    """Return the number of rows of each table, and how many seconds it took to count them."""
    started = time.monotonic()
    counts = {table: tx.count(table) for table in tables}
    return counts, time.monotonic() - started
