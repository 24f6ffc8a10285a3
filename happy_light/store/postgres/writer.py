"""The writing connection.

A group is one transaction and one pipeline: BEGIN, the locks, the operations, the outbox, COMMIT. Statements are sent
ahead, and only those whose rows or counts an operation needs are waited for. So an error may come with a statement of
a later operation; a group in which the database refused anything is therefore run again one by one.

The rows of the group's accounts are locked first, in the order of their ids. So operations may read and then write,
groups of several processes do not deadlock, and an account's seq rises in the order of commits.

A connection may be lost while it commits. Then nobody knows yet whether the group was stored, and it must neither be
acknowledged nor run again. Every group therefore leaves its number in `writers`, in the row of this process. On the
next connection that row is locked, which waits for the transaction if PostgreSQL is still at it, and read: it has
the number of the group if, and only if, the group was committed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from happy_light import clock, ids
from happy_light.bus import Committed
from happy_light.errors import ServiceUnavailable
from happy_light.store.engine import ADVANCE, OutcomeUnknownError
from happy_light.store.job_thread import JobThread
from happy_light.store.postgres import errors
from happy_light.store.postgres.connection import PostgresConnection
from happy_light.store.transaction import Cursor

log = logging.getLogger(__name__)

GROUP_MAX: Final = 64
GROUP_SECONDS: Final = 0.004
TOGETHER_MAX: Final = 32
_LOCK: Final = "SELECT id, seq FROM accounts WHERE id = ANY(?) ORDER BY id FOR NO KEY UPDATE"
_STORE: Final = "INSERT INTO updates (account_id, seq, audience, skip, frame, created_at) VALUES (?, ?, ?, ?, ?, ?)"
_REGISTER: Final = "INSERT INTO writers (id, group_number, written_at) VALUES (?, 0, ?) ON CONFLICT (id) DO NOTHING"
_NUMBER: Final = (
    "INSERT INTO writers (id, group_number, written_at) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET group_number = excluded.group_number, written_at = excluded.written_at"
)
_ASK: Final = "SELECT group_number FROM writers WHERE id = ? FOR UPDATE"


class PostgresWriter:
    """The writing connection, as group commit uses it."""

    savepoints = False
    group_max = GROUP_MAX
    group_seconds = GROUP_SECONDS
    together_max = TOGETHER_MAX

    def __init__(self, url: str, outbox: bool) -> None:
        self.connection = PostgresConnection(url, readonly=False)
        self._outbox = outbox
        self._thread = JobThread("writer")
        self._id = ids.new_id()
        self._group = 0
        self._locked: Cursor | None = None
        """The answer with the accounts that are locked, and their seq."""
        self._advanced: dict[str, Cursor] = {}
        self._registered: psycopg.Connection[object] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the writer's thread."""
        self._thread.submit(job)

    async def finish_jobs(self) -> None:
        """Wait until the jobs that were submitted are done."""
        await self._thread.finish_jobs()

    def close(self) -> None:
        """Disconnect and end the thread; the jobs must be done."""
        self._thread.submit(self.connection.close)
        self._thread.stop()

    def open(self) -> None:
        """Connect. Raises ServiceUnavailable, psycopg.Error."""
        self.connection.ensure()
        if self._registered is not self.connection.raw:
            self.connection.execute(_REGISTER, (self._id, clock.now_ms()))
            self._registered = self.connection.raw

    def begin(self, account_ids: Collection[str]) -> None:
        """Begin a transaction with the rows of these accounts locked. Raises ServiceUnavailable."""
        self.open()
        self._group += 1
        connection = self.connection
        connection.enter_pipeline()
        connection.execute("BEGIN")
        self._locked = None
        if account_ids:
            # What a client gives as an account may contain what no text of PostgreSQL can.
            self._locked = connection.execute(_LOCK, (sorted(id for id in account_ids if "\0" not in id),))

    def read_ahead(self, operations: Sequence[Callable[[], object]]) -> None:
        """Send the first query of each operation."""
        self.connection.read_ahead(operations)

    def advance(self, counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """Raise the seq of each account by its count. Only those of accounts that are not locked are waited for."""
        self._advanced = {id: self.connection.execute(ADVANCE, (count, id)) for id, count in counts.items()}
        locked: dict[str, int] = dict(self._locked.fetchall()) if self._locked and counts else {}
        for id, answer in self._advanced.items():
            if id in locked:
                yield id, locked[id] + counts[id]
            elif row := answer.fetchone():
                yield id, row[0]

    def deleted(self) -> set[str]:
        """Return the accounts of the last `advance` that the group itself deleted."""
        return {id for id, answer in self._advanced.items() if answer.rowcount == 0}

    def keep(self, updates: Sequence[Committed], now: int) -> None:
        """Store updates in the outbox, if there may be other processes."""
        if not self._outbox:
            return
        rows = [(u.audience.account_id, u.seq, u.audience.text, u.skip, u.frame, now) for u in updates]
        if rows:
            self.connection.executemany(_STORE, rows)

    def commit(self) -> None:
        """Commit. Raises OutcomeUnknownError if the connection is lost meanwhile."""
        connection = self.connection
        connection.execute(_NUMBER, (self._id, self._group, clock.now_ms()))
        try:
            ended = connection.pipeline.send(b"COMMIT", ())
            connection.leave_pipeline()
        except psycopg.Error as error:
            if connection.lost:
                with contextlib.suppress(psycopg.Error):
                    connection.leave_pipeline()
                raise OutcomeUnknownError(errors.summary(error)) from None
            raise
        if ended.status != "COMMIT":  # PostgreSQL answers COMMIT with ROLLBACK in a failed transaction
            raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back")

    def rollback(self) -> None:
        """Undo the transaction; a connection that does not even do that is given up."""
        try:
            with contextlib.suppress(psycopg.Error):
                self.connection.leave_pipeline()
            if not self.connection.lost and self.connection.raw.info.transaction_status != TransactionStatus.IDLE:
                self.connection.pipeline.query(b"ROLLBACK", ())  # psycopg would forget all prepared statements
        except psycopg.Error as error:
            log.error("database: %s", errors.summary(error))
            self.connection.close()

    def was_committed(self) -> bool | None:
        """Return whether the last group, whose outcome was unknown, is stored; None while that cannot be known."""
        try:
            self.connection.ensure()
            row = self.connection.execute(_ASK, (self._id,)).fetchone()
        except (psycopg.Error, ServiceUnavailable):
            if self.connection.lost:
                self.connection.close()
            return None
        return row is not None and row[0] == self._group

    def changes(self) -> int:
        """Return how many statements that may change rows were sent."""
        return self.connection.writes

    def usable(self) -> bool:
        """Return whether no statement of the transaction is known to have failed."""
        connection = self.connection
        return not connection.lost and not connection.pipeline.failed

    def is_transient(self, error: Exception) -> bool:
        """Return whether the transaction may succeed when it is run again, on a new connection if it was lost."""
        return errors.is_transient(error) or (isinstance(error, psycopg.Error) and self.connection.lost)

    def translate(self, error: Exception) -> Exception:
        """Return what an error means to a client."""
        return errors.translate(error)
