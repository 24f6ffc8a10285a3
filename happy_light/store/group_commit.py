"""Group commit: the writes that wait share one transaction and one flush to disk.

A group is run without savepoints, since they cost a third of a small write. If an operation fails after it has
written something, the group is rolled back and run again with a savepoint for each, or one by one, as the engine
likes; if even the commit fails, each write gets a transaction of its own. So a failing write fails alone, and an
operation may run more than once.

An error leads through its traceback to the frames that it passed and to those that called them, also to the frames
here, and they to the units. So a unit keeps nothing once its caller is told: no cycle holds a write in memory.

Small writes of the same kind that wait one behind the other are run by one call for each account, which takes far
fewer statements. Where the database is another program, each query costs a way there and back; so the first queries of
these calls are sent together.

The updates of a group get their account's next `seq` inside the same transaction. After the commit, on the event
loop, they go to the bus in this order, and then the callers wake.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from happy_light import clock
from happy_light.bus import Bus, BusMessage, Committed, Event, InternalMessage, Update
from happy_light.counters import Timing
from happy_light.errors import ServiceUnavailable
from happy_light.store.account_versions import AccountVersions
from happy_light.store.engine import AccountsBusy, OutcomeUnknownError, Writer
from happy_light.store.transaction import Dialect, Transaction

log = logging.getLogger(__name__)

R = TypeVar("R")

WAITING_MAX = 20_000  # writes that may wait; more are refused
ATTEMPTS_MAX = 3  # runs of a group that others were in the way of
SETTLE_SECONDS = 10.0  # until the callers of a commit whose outcome is unknown are told so
SETTLE_EVERY = 0.2  # s between attempts to find it out
UNAVAILABLE = "The server cannot write to its database"
UNKNOWN = "The database went away during the write, and it is not known whether it was stored; try again"


Published = list[tuple[Collection[str], list[Event | InternalMessage]]]
"""What calls have published, with the accounts that they had named."""


class Unit:
    """A write that waits for its turn, and its outcome."""

    __slots__ = ("account_ids", "busy", "error", "future", "item", "operation", "result")

    def __init__(
        self, account_ids: Collection[str], operation: Callable[..., Any], item: Any, future: asyncio.Future[Any]
    ) -> None:
        self.account_ids = account_ids
        self.operation = operation
        """`operation(tx)`, or `operation(tx, account_id, items)` where there is an item."""
        self.item = item
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None
        self.busy = False
        """Whether it waited for another process's writes of its accounts in vain."""

    def succeed(self, result: Any) -> None:
        """Keep the result of the operation."""
        self.result, self.error = result, None

    def fail(self, error: Exception) -> None:
        """Keep the error for the caller; nothing of the operation will be stored."""
        self.result, self.error = None, error
        self.busy = isinstance(error, AccountsBusy)

    def tell(self) -> None:
        """Give the outcome to the caller, if it still waits, and let go of everything. Called on the event loop."""
        if not self.future.done():  # else cancelled
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.result)
        self.result = self.error = None
        del self.future, self.operation, self.item


class _SavepointsNeededError(Exception):
    """An operation failed with `error` after it had written something, and there is no savepoint to go back to."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class GroupCommit:
    """The queue of writes and the thread that commits them."""

    def __init__(self, writer: Writer, dialect: Dialect, bus: Bus, versions: AccountVersions | None) -> None:
        self._writer = writer
        self._dialect = dialect
        self._bus = bus
        self._versions = versions
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Unit] = deque()
        self._lock = threading.Lock()
        self._running = False
        self._closing = threading.Event()
        self.commits = Timing()
        self.writes = 0

    @property
    def waiting(self) -> int:
        """How many writes wait."""
        return len(self._waiting)

    def write(
        self, account_ids: Collection[str], operation: Callable[..., Any], item: object = None
    ) -> asyncio.Future[Any]:
        """Queue a write. The future is resolved when it is on disk. Raises ServiceUnavailable when too many wait.

        Without an item the operation is `operation(tx)`. With one it is `operation(tx, account_id, items)`, called with
        those of its one account that wait one behind the other; it returns the result of each, or its error.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise ServiceUnavailable("Too many writes are waiting")
        future: asyncio.Future[Any] = self._loop.create_future()
        unit = Unit(account_ids, operation, item, future)
        with self._lock:
            self._waiting.append(unit)
            if self._running:
                return future
            self._running = True
        self._writer.submit(self._run)
        return future

    def close(self) -> None:
        """Wait no longer for a database that is away."""
        self._closing.set()

    # --------------------------------------------------------------------------- the writer's thread
    def _run(self) -> None:
        """Commit groups until nothing waits."""
        while True:
            with self._lock:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._writer.group_max))]
                if not group:
                    self._running = False
                    return
            self._commit(group)

    def _commit(self, group: list[Unit], savepoints: bool = False, attempt: int = 1) -> None:
        """Run the writes of a group in one transaction; those for which there was no time go back to the queue."""
        started = time.perf_counter()
        try:
            self._writer.begin({id for unit in group for id in unit.account_ids})
        except Exception as error:
            self._writer.rollback()
            if attempt < ATTEMPTS_MAX and self._writer.is_transient(error):
                self._commit(group, savepoints, attempt + 1)
                return
            # One by one, each write would wait as long again.
            log.error("database: %s; %d writes are refused", error, len(group))
            self._refuse(group)
            return
        messages: list[BusMessage] = []
        try:
            messages = self._run_group(group, savepoints)
            self._writer.commit()
        except OutcomeUnknownError as error:
            log.error("database: the connection was lost during a commit: %s", error)
            self._settle(group, messages)
        except Exception as error:
            self._writer.rollback()
            self._recover(group, savepoints, attempt, error)
        else:
            self.commits.add(time.perf_counter() - started)
            self.writes += len(group)
            if deleted := self._writer.deleted():
                messages = [one for one in messages if not _is_for(one, deleted)]
            self._hand_over(group, messages)

    def _recover(self, group: list[Unit], savepoints: bool, attempt: int, error: Exception) -> None:
        """Commit a group that was rolled back again, in another way if the error will return."""
        cause = error.error if isinstance(error, _SavepointsNeededError) else error
        if attempt < ATTEMPTS_MAX and self._writer.is_transient(cause):
            self._commit(group, savepoints, attempt + 1)
        elif len(group) > 1:
            self._run_again(group, savepoints=self._writer.savepoints and cause is not error)
        else:
            group[0].fail(self._writer.translate(cause))
            self._hand_over(group, [])

    def _run_again(self, group: list[Unit], savepoints: bool) -> None:
        """Commit a group that was rolled back: with savepoints, or else one by one."""
        if savepoints:
            self._commit(group, savepoints=True)
            return
        busy: set[str] = set()  # accounts that were waited for in vain: once is enough
        for unit in group:
            if not busy.isdisjoint(unit.account_ids):
                self._refuse([unit])
                continue
            self._commit([unit])
            if unit.busy:
                busy.update(unit.account_ids)

    def _settle(self, group: list[Unit], messages: list[BusMessage]) -> None:
        """Find out what became of a group whose connection was lost during the commit, however long that takes.

        Until then no other write runs, so that its updates come before those that follow; what waits is refused. If
        it takes too long, the callers are told that it is unknown; what was stored is then published all the same.
        """
        give_up = time.monotonic() + SETTLE_SECONDS
        told = False
        while (committed := self._writer.was_committed()) is None:
            self._refuse_waiting()
            if not told and time.monotonic() >= give_up:
                told = True
                self._loop.call_soon_threadsafe(_tell_unknown, group)
            if self._closing.wait(SETTLE_EVERY):
                self._loop.call_soon_threadsafe(_tell_unknown, group)
                return
        log.warning(
            "database: %d writes whose commit was cut off are %s", len(group), "stored" if committed else "not stored"
        )
        if committed:
            self.writes += len(group)
            self._hand_over(group, messages)
        elif not told:
            self._commit(group)

    def _refuse(self, units: list[Unit]) -> None:
        """Fail writes without running them."""
        for unit in units:
            unit.fail(ServiceUnavailable(UNAVAILABLE))
        self._hand_over(units, [])

    def _refuse_waiting(self) -> None:
        """Refuse every write that waits."""
        with self._lock:
            units = list(self._waiting)
            self._waiting.clear()
        if units:
            self._refuse(units)

    def _hand_over(self, group: list[Unit], messages: list[BusMessage]) -> None:
        """Let the event loop publish and wake the callers."""
        self._loop.call_soon_threadsafe(self._finish, group, messages)

    def _run_group(self, group: list[Unit], savepoints: bool) -> list[BusMessage]:
        """Run the operations in the open transaction and number what they published.

        Operations for which there is no time go back to the queue. Raises _SavepointsNeededError if one of them failed
        after it had written and has no savepoint, and an error of the database if the transaction is lost.
        """
        writer, now = self._writer, clock.now_ms()
        end = time.monotonic() + writer.group_seconds
        published: Published = []
        first = 0
        while first < len(group):
            if first and time.monotonic() > end:
                with self._lock:
                    self._waiting.extendleft(reversed(group[first:]))
                del group[first:]
                break
            calls = _calls(group, first, 1 if savepoints else writer.together_max)
            first += sum(map(len, calls))
            if len(calls) > 1:
                writer.read_ahead([partial(_run, units, self._transaction(now)) for units in calls])
            for units in calls:
                published.append((units[0].account_ids, self._run_call(units, now, savepoints)))
        return self._number(published, now)

    def _transaction(self, now: int) -> Transaction:
        return Transaction(self._writer.connection, self._dialect, now)

    def _run_call(self, units: list[Unit], now: int, savepoints: bool) -> list[Event | InternalMessage]:
        """Run the operation of one or several units, and keep their outcomes. Raises what `_run_group` raises."""
        writer = self._writer
        tx = self._transaction(now)
        before = writer.changes()
        if savepoints:
            writer.connection.execute("SAVEPOINT unit")
        try:
            results = _run(units, tx)
        except Exception as error:
            if savepoints:
                if not writer.usable():
                    raise
                writer.connection.execute("ROLLBACK TO SAVEPOINT unit")
            elif len(units) > 1 or writer.changes() != before or not writer.usable():
                raise _SavepointsNeededError(error) from error
            tx.messages.clear()
            units[0].fail(writer.translate(error))  # no variable may keep it, for its traceback keeps the variables
        else:
            for unit, result in zip(units, results, strict=True):
                if isinstance(result, Exception):
                    unit.fail(writer.translate(result))
                else:
                    unit.succeed(result)
        if savepoints:
            writer.connection.execute("RELEASE SAVEPOINT unit")
        return tx.messages

    def _number(self, published: Published, now: int) -> list[BusMessage]:
        """Return what the group published, every update with its account's next seq. `now` is in ms."""
        counts: dict[str, int] = {}
        for account_ids, messages in published:
            for message in messages:
                if isinstance(message, Update):
                    account_id = message.audience.account_id
                    counts[account_id] = counts.get(account_id, 0) + 1
                    if account_id not in account_ids:
                        log.error("a write published for an account that it did not name: %s", type(message.body))
        following = {account_id: seq - counts[account_id] + 1 for account_id, seq in self._writer.advance(counts)}
        numbered: list[BusMessage] = []
        for message in chain.from_iterable(messages for _, messages in published):
            if not isinstance(message, Update):
                numbered.append(message)
            elif (seq := following.get(message.audience.account_id)) is not None:  # else the account was deleted
                following[message.audience.account_id] = seq + 1
                numbered.append(message.commit(seq, now))
        self._writer.keep([message for message in numbered if isinstance(message, Committed)], now)
        return numbered

    # ------------------------------------------------------------------------------- the event loop
    def _finish(self, group: list[Unit], messages: list[BusMessage]) -> None:
        """Publish what was committed, then wake the callers that still wait."""
        if self._versions is not None:
            previous: Collection[str] | None = None
            for unit in group:
                if unit.error is None and unit.account_ids != previous:
                    self._versions.changed(unit.account_ids)
                    previous = unit.account_ids
        try:
            self._bus.publish(*messages)
        finally:  # what is committed is acknowledged, whatever becomes of its updates
            for unit in group:
                unit.tell()


def _calls(group: list[Unit], first: int, most: int) -> list[list[Unit]]:
    """Return the unit at `first`, and those behind it that run together, in lists of those that run in one call."""
    unit = group[first]
    if unit.item is None:
        return [[unit]]
    calls: dict[Collection[str], list[Unit]] = {}  # by account
    for following in group[first : first + most]:
        if following.item is None or following.operation is not unit.operation:
            break
        calls.setdefault(following.account_ids, []).append(following)
    return list(calls.values())


def _run(units: list[Unit], tx: Transaction) -> Sequence[Any]:
    """Run the operation of units that run in one call; return the result of each, or its error."""
    unit = units[0]
    if unit.item is None:
        return (unit.operation(tx),)
    results: Sequence[Any] = unit.operation(tx, *unit.account_ids, [each.item for each in units])
    return results


def _is_for(message: BusMessage, account_ids: Collection[str]) -> bool:
    """Whether it is an update for one of the accounts."""
    return isinstance(message, Committed) and message.audience.account_id in account_ids


def _tell_unknown(group: list[Unit]) -> None:
    """Tell the callers that nobody knows whether their writes were stored; on the event loop."""
    for unit in group:
        if not unit.future.done():
            unit.future.set_exception(ServiceUnavailable(UNKNOWN))
