"""Connections, the writer, and group commit.

A write is a plain function of a transaction (`Tx`) that runs whole on the writer's thread. All writes
that wait at that moment share one BEGIN IMMEDIATE … COMMIT and one flush to disk, each in its own
savepoint, so that a failing one fails alone. What it published gets the account's next `seq` inside
the same transaction and goes to the bus after the commit, in commit order, before its caller wakes.
Reads have connections of their own and never wait for the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from happy_light import wire
from happy_light.bus import Bus, Committed, Ephemeral, Update
from happy_light.counters import Timing
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.store.reader import Reader
from happy_light.store.schema import prepare
from happy_light.store.thread import on_thread, ship
from happy_light.store.tx import ReadTransaction, Transaction

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_READERS = 2
_GROUP_MAX = 500  # writes in one transaction: bounds how long a commit makes the first one wait
_PENDING_MAX = 20_000  # writes that may wait; more are refused, since memory is not endless

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # readers and the writer do not block each other
    "PRAGMA synchronous = FULL",  # a commit is on disk when it returns, in WAL mode too
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",  # ms; for a backup or an operator's sqlite3 shell
    "PRAGMA journal_size_limit = 67108864",  # a burst does not leave a huge -wal behind
    "PRAGMA cache_size = -8000",  # KiB
    "PRAGMA temp_store = MEMORY",
)


class _Unit:
    """A write that waits for its turn, and what came of it."""

    __slots__ = ("error", "function", "future", "result", "tx")

    def __init__(self, function: Callable[[Transaction], Any], future: asyncio.Future[Any]) -> None:
        self.function = function
        self.future = future
        self.tx: Transaction | None = None
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """The database of one server. `open`, then `write` and `read`, then `close`."""

    def __init__(self, path: Path, bus: Bus) -> None:
        self.path = path
        self._bus = bus
        self._pending: deque[_Unit] = deque()
        self._lock = threading.Lock()
        self._draining = False
        self._closed = True
        self._readers: list[Reader] = []
        self._turn = 0
        self.commits = Timing()
        """How many commits there were, and how long they took, writes of the group included."""
        self.writes = 0
        """How many writes those commits carried."""

    @property
    def waiting(self) -> int:
        """How many writes wait for the writer."""
        return len(self._pending)

    async def open(self) -> None:
        """Creates or migrates the database. Raises StartError if the file is not one to work with."""
        self._loop = asyncio.get_running_loop()
        path = self.path
        await asyncio.to_thread(prepare, path)  # a migration may take minutes, and signals be heard meanwhile
        try:
            # What is open must be closed if the rest fails: the thread of a connection keeps the process alive.
            async with contextlib.AsyncExitStack() as opened:
                self._writer = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
                opened.push_async_callback(self._writer.close)
                self._writer_connection = self._writer._conn
                for pragma in _PRAGMAS:
                    await self._writer.execute(pragma)
                await self._check_writing()
                readers = f"{path.absolute().as_uri()}?mode=ro"
                for _ in range(_READERS):
                    reader = await aiosqlite.connect(readers, uri=True, isolation_level=None, cached_statements=256)
                    opened.push_async_callback(reader.close)
                    await reader.execute("PRAGMA query_only = ON")
                    await reader.execute("PRAGMA busy_timeout = 5000")
                    self._readers.append(Reader(reader))
                opened.pop_all()
        except sqlite3.Error as error:
            raise OperatorError(f"The database {path} cannot be used: {error}.") from error
        self._closed = False

    async def _check_writing(self) -> None:
        """Raises StartError for a file that may only be read: SQLite opens it without a word."""
        try:
            await self._writer.execute("UPDATE meta SET value = value WHERE false")  # BEGIN would say nothing either
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:  # the low byte is the kind of error
                raise OperatorError(
                    f"The database {self.path} cannot be written; give the user that runs the server the right to "
                    "write it, the files beside it and their folder."
                ) from error

    async def close(self) -> None:
        """Finishes the writes that wait, folds the write-ahead log into the database, closes."""
        if self._closed:
            return
        self._closed = True
        await on_thread(self._writer, self._drain)
        for reader in self._readers:
            await reader.close()
        try:
            await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # what is in the log is safe there
            log.warning("the write-ahead log stays as it is: %s", error)
        finally:
            await self._writer.close()

    # ------------------------------------------------------------------------------------- reading
    def read(
        self, operation: Callable[Concatenate[ReadTransaction, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]:
        """Runs `operation(rx, …)` on a reading thread. It sees everything committed before. Raises Unavailable."""
        if self._closed:  # nobody would ever answer
            raise ServiceUnavailable("The server is stopping")
        self._turn = (self._turn + 1) % _READERS
        return self._readers[self._turn].read(lambda tx: operation(tx, *args, **kwargs))

    # ------------------------------------------------------------------------------------- writing
    def write(
        self,
        account_id: str,
        operation: Callable[Concatenate[Transaction, str, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[R]:
        """Run `operation(tx, account_id, …)`, which changes what belongs to that account; see `write_for`."""
        return self._enqueue(lambda tx: operation(tx, account_id, *args, **kwargs))

    def write_for(
        self,
        account_ids: Sequence[str],
        operation: Callable[Concatenate[Transaction, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[R]:
        """Run `operation(tx, …)` on the writer's thread. The future is resolved when the commit is on disk.

        `account_ids` names every account whose rows the operation reads in order to change them or for which it
        publishes; () for rows that belong to no account. Writes run in the order of these calls. A caller that
        stops waiting does not cancel its write. Raises what the operation raised (nothing of it is stored then),
        or ServiceUnavailable.
        """
        return self._enqueue(lambda tx: operation(tx, *args, **kwargs))

    def _enqueue(self, function: Callable[[Transaction], R]) -> asyncio.Future[R]:
        if self._closed or len(self._pending) >= _PENDING_MAX:
            raise ServiceUnavailable("The server is stopping" if self._closed else "Too many writes are waiting")
        future: asyncio.Future[R] = self._loop.create_future()
        unit = _Unit(function, future)
        with self._lock:
            self._pending.append(unit)
            if self._draining:
                return future
            self._draining = True
        ship(self._writer, self._drain)
        return future

    def _drain(self) -> None:
        """On the writer's thread: commits groups until nothing waits."""
        while True:
            with self._lock:
                group = [self._pending.popleft() for _ in range(min(len(self._pending), _GROUP_MAX))]
                if not group:
                    self._draining = False
                    return
            self._commit(group)

    def _commit(self, group: list[_Unit]) -> None:
        connection = self._writer_connection
        began = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # nobody's fault, so nobody is tried alone: each would wait as long again
            for unit in group:
                unit.tx = None
                unit.error = ServiceUnavailable("The server cannot write to its database")
            log.error("database: %s; %d writes are refused", error, len(group))
            self._loop.call_soon_threadsafe(self._finish, group, [])
            return
        try:
            now = wire.now_ms()
            for unit in group:
                self._attempt(unit, now)
            events = _number(connection, group, now)
            connection.execute("COMMIT")
            self.commits.add(time.perf_counter() - began)
            self.writes += len(group)
        except Exception as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(group) > 1:  # one of them spoilt it for all, so each has to stand for itself
                for unit in group:
                    self._commit([unit])
                return
            group[0].error = _understandable(error)
            group[0].tx = None
            events = []
        self._loop.call_soon_threadsafe(self._finish, group, events)

    def _attempt(self, unit: _Unit, now: int) -> None:
        connection = self._writer_connection
        connection.execute("SAVEPOINT unit")
        tx = Transaction(connection, now)
        try:
            unit.result, unit.error = unit.function(tx), None
            unit.tx = tx
        except Exception as error:
            if not connection.in_transaction:  # SQLite gave up the whole transaction (a full disk)
                raise
            connection.execute("ROLLBACK TO unit")
            unit.tx, unit.error = None, _understandable(error)
        connection.execute("RELEASE unit")

    def _finish(self, group: list[_Unit], events: list[Committed | Ephemeral]) -> None:
        """On the event loop: what is on disk is announced first, then the callers wake."""
        self._bus.publish(*events)
        for unit in group:
            if unit.tx is not None:
                for effect in unit.tx._after:
                    try:
                        effect()
                    except Exception:
                        log.exception("after commit")
            if unit.future.done():  # its caller went away
                continue
            if unit.error is not None:
                unit.future.set_exception(unit.error)
            else:
                unit.future.set_result(unit.result)


def _number(connection: sqlite3.Connection, group: list[_Unit], now: int) -> list[Committed | Ephemeral]:
    """Gives every update of the group its account's next seq, inside the transaction."""
    events = [event for unit in group if unit.tx is not None for event in unit.tx._events]
    counts: dict[str, int] = {}
    for event in events:
        if isinstance(event, Update):
            counts[event.audience.account_id] = counts.get(event.audience.account_id, 0) + 1
    following: dict[str, int] = {}
    for account_id, count in counts.items():
        row = connection.execute(
            "UPDATE accounts SET seq = seq + ? WHERE id = ? RETURNING seq", (count, account_id)
        ).fetchone()
        if row is not None:  # an account that this very group deleted has nobody to tell
            following[account_id] = row[0] - count + 1
    numbered: list[Committed | Ephemeral] = []
    for event in events:
        if isinstance(event, Update):
            seq = following.get(event.audience.account_id)
            if seq is None:
                continue
            following[event.audience.account_id] = seq + 1
            numbered.append(event.commit(seq, now))
        else:
            numbered.append(event)
    return numbered


def _understandable(error: Exception) -> Exception:
    """A database error as what it means to a client; everything else as it is."""
    if isinstance(error, sqlite3.OperationalError):
        log.error("database: %s", error)
        return ServiceUnavailable("The server cannot write to its database")
    return error
