"""Group commit: the writes that wait share one transaction and one flush to disk.

A group is run without savepoints, since they cost a third of a small write. If an operation fails after it has
written something, the group is rolled back and run again with a savepoint for each; if even the commit fails,
each write gets a transaction of its own. So a failing write fails alone, and an operation may run more than once.

The updates of a group get their account's next `seq` inside the same transaction. After the commit, on the event
loop, they go to the bus in this order, and then the callers wake.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from happy_light import clock
from happy_light.bus import Bus, BusMessage, Update
from happy_light.counters import Timing
from happy_light.errors import ServiceUnavailable
from happy_light.store.account_versions import AccountVersions
from happy_light.store.engine import Writer
from happy_light.store.transaction import Dialect, Transaction

log = logging.getLogger(__name__)

R = TypeVar("R")

GROUP_MAX = 500  # writes in one transaction: bounds how long a commit makes the first one wait
WAITING_MAX = 20_000  # writes that may wait; more are refused
UNAVAILABLE = "The server cannot write to its database"


class Unit:
    """A write that waits for its turn, and its outcome."""

    __slots__ = ("account_ids", "error", "future", "operation", "result", "tx")

    def __init__(
        self, account_ids: Sequence[str], operation: Callable[[Transaction], Any], future: asyncio.Future[Any]
    ) -> None:
        self.account_ids = account_ids
        self.operation = operation
        self.future = future
        self.tx: Transaction | None = None
        """Its transaction, if it succeeded."""
        self.result: Any = None
        self.error: Exception | None = None

    def succeed(self, tx: Transaction, result: Any) -> None:
        """Keep the result of the operation."""
        self.tx, self.result, self.error = tx, result, None

    def fail(self, error: Exception) -> None:
        """Keep the error for the caller; nothing of the operation will be stored."""
        self.tx, self.result, self.error = None, None, error


class _SavepointsNeededError(Exception):
    """An operation failed with `error` after it had written something, and there is no savepoint to go back to."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class GroupCommit:
    """The queue of writes and the thread that commits them."""

    def __init__(self, writer: Writer, dialect: Dialect, bus: Bus, versions: AccountVersions) -> None:
        self._writer = writer
        self._dialect = dialect
        self._bus = bus
        self._versions = versions
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Unit] = deque()
        self._lock = threading.Lock()
        self._running = False
        self.commits = Timing()
        self.writes = 0

    @property
    def waiting(self) -> int:
        """How many writes wait."""
        return len(self._waiting)

    def write(self, account_ids: Sequence[str], operation: Callable[[Transaction], R]) -> asyncio.Future[R]:
        """Queue a write. The future is resolved when it is on disk. Raises ServiceUnavailable when too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise ServiceUnavailable("Too many writes are waiting")
        future: asyncio.Future[R] = self._loop.create_future()
        unit = Unit(account_ids, operation, future)
        with self._lock:
            self._waiting.append(unit)
            if self._running:
                return future
            self._running = True
        self._writer.submit(self._run)
        return future

    # --------------------------------------------------------------------------- the writer's thread
    def _run(self) -> None:
        """Commit groups until nothing waits."""
        while True:
            with self._lock:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_MAX))]
                if not group:
                    self._running = False
                    return
            self._commit(group)

    def _commit(self, group: list[Unit], savepoints: bool = False) -> None:
        started = time.perf_counter()
        try:
            self._writer.begin({id for unit in group for id in unit.account_ids})
        except Exception as error:  # one by one, each write would wait as long again
            log.error("database: %s; %d writes are refused", error, len(group))
            for unit in group:
                unit.fail(ServiceUnavailable(UNAVAILABLE))
            self._loop.call_soon_threadsafe(self._finish, group, [])
            return
        messages: list[BusMessage] = []
        try:
            messages = self._run_group(group, savepoints)
            self._writer.commit()
            self.commits.add(time.perf_counter() - started)
            self.writes += len(group)
        except Exception as error:
            self._writer.rollback()
            if len(group) > 1:
                self._run_again(group, savepoints=isinstance(error, _SavepointsNeededError))
                return
            cause = error.error if isinstance(error, _SavepointsNeededError) else error
            group[0].fail(self._writer.translate(cause))
            messages = []
        self._loop.call_soon_threadsafe(self._finish, group, messages)

    def _run_again(self, group: list[Unit], savepoints: bool) -> None:
        """Commit a group that was rolled back: with savepoints, or else one by one."""
        if savepoints:
            self._commit(group, savepoints=True)
            return
        for unit in group:
            self._commit([unit])

    def _run_group(self, group: list[Unit], savepoints: bool) -> list[BusMessage]:
        """Run the operations in the open transaction and number what they published.

        Raises _SavepointsNeededError if one of them failed after it had written and has no savepoint, and an error of
        the database if the transaction is lost.
        """
        writer, now = self._writer, clock.now_ms()
        for unit in group:
            tx = Transaction(writer.connection, self._dialect, now)
            before = writer.changes()
            if savepoints:
                writer.connection.execute("SAVEPOINT unit")
            try:
                unit.succeed(tx, unit.operation(tx))
            except Exception as error:
                if savepoints:
                    if not writer.usable():
                        raise
                    writer.connection.execute("ROLLBACK TO SAVEPOINT unit")
                elif writer.changes() != before or not writer.usable():
                    raise _SavepointsNeededError(error) from error
                unit.fail(writer.translate(error))
            if savepoints:
                writer.connection.execute("RELEASE SAVEPOINT unit")
        return self._number(group, now)

    def _number(self, group: list[Unit], now: int) -> list[BusMessage]:
        """Return what the group published, every update with its account's next seq. `now` is in ms."""
        published = [message for unit in group if unit.tx is not None for message in unit.tx.messages]
        counts: dict[str, int] = {}
        for message in published:
            if isinstance(message, Update):
                account_id = message.audience.account_id
                counts[account_id] = counts.get(account_id, 0) + 1
        following: dict[str, int] = {}
        for account_id, count in counts.items():
            row = self._writer.connection.execute(
                "UPDATE accounts SET seq = seq + ? WHERE id = ? RETURNING seq", (count, account_id)
            ).fetchone()
            if row is not None:  # else this group has deleted the account
                following[account_id] = row[0] - count + 1
        numbered: list[BusMessage] = []
        for message in published:
            if not isinstance(message, Update):
                numbered.append(message)
            elif (seq := following.get(message.audience.account_id)) is not None:
                following[message.audience.account_id] = seq + 1
                numbered.append(message.commit(seq, now))
        return numbered

    # ------------------------------------------------------------------------------- the event loop
    def _finish(self, group: list[Unit], messages: list[BusMessage]) -> None:
        """Publish what was committed, then wake the callers that still wait."""
        for unit in group:
            if unit.tx is not None:
                self._versions.changed(unit.account_ids)
        self._bus.publish(*messages)
        for unit in group:
            if unit.future.done():  # cancelled
                continue
            if unit.error is not None:
                unit.future.set_exception(unit.error)
            else:
                unit.future.set_result(unit.result)
