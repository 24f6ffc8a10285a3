"""What a database engine must offer to the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeVar

import msgspec

from happy_light.bus import Committed
from happy_light.errors import ServiceUnavailable
from happy_light.store.transaction import Connection, Dialect, ReadTransaction, Transaction

R = TypeVar("R")


class OutcomeUnknownError(Exception):
    """The connection was lost during a commit: whether it was stored has to be asked of the database."""


class AccountsBusy(ServiceUnavailable):
    """Somebody else has held the rows of a write's accounts for too long."""


class DiskUsage(msgspec.Struct):
    """Bytes: the database, its write-ahead log, and the part of the database that is free."""

    database: int
    log: int
    free: int


ADVANCE: Final = "UPDATE accounts SET seq = seq + ? WHERE id = ? RETURNING seq"


class Writer(Protocol):
    """The one writing connection. Everything but `submit` is called on its thread only."""

    @property
    def group_max(self) -> int:
        """How many writes one transaction takes: bounds how long the first waits for the last."""

    @property
    def group_seconds(self) -> float:
        """How many seconds of operations one transaction takes: it holds rows that other processes may need."""

    @property
    def together_max(self) -> int:
        """How many writes run together; the time of a group is looked at only after so many."""

    @property
    def savepoints(self) -> bool:
        """Whether a group with a failed write is run again with savepoints; otherwise write by write."""

    @property
    def connection(self) -> Connection:
        """Where operations run their statements."""

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the writer's thread, after the jobs submitted before. Called on any thread."""

    def begin(self, account_ids: Collection[str]) -> None:
        """Begin a transaction that no other writer can change these accounts in."""

    def read_ahead(self, operations: Sequence[Callable[[], object]]) -> None:
        """Send the first query of each operation, so that all the answers come at once when the operations are run.

        They have to be run next, with the same arguments. Each is of another account.
        """

    def advance(self, counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """Raise the seq of each account by its count. Return (account id, new seq) of those that exist.

        Some may turn out not to exist any more; after the commit, `deleted` returns them.
        """

    def deleted(self) -> Collection[str]:
        """Return accounts for which `advance` returned a seq, but which did not exist any more. After `commit` only."""

    def keep(self, updates: Sequence[Committed], now: int) -> None:
        """Store updates for whoever misses them, if several processes can use this database. `now` is in ms."""

    def commit(self) -> None:
        """Commit; what was written is on disk when this returns.

        Raises OutcomeUnknownError if the connection was lost; `was_committed` then says more.
        """

    def was_committed(self) -> bool | None:
        """Return whether the last transaction, whose outcome was unknown, is stored; None while nobody can tell."""

    def rollback(self) -> None:
        """Undo the transaction, if there still is one. Raises nothing."""

    def changes(self) -> int:
        """Return a number that grows with every row that is written, also by a statement that returns rows."""

    def usable(self) -> bool:
        """Return whether the transaction can go on after an error."""

    def is_transient(self, error: Exception) -> bool:
        """Return whether the same transaction may succeed when it is run again after this error."""

    def translate(self, error: Exception) -> Exception:
        """Return what an error means to a client: ServiceUnavailable for one of the database."""


class Reader(Protocol):
    """A reading connection with a thread of its own."""

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the connection's thread. Called on any thread."""

    def read(self, operation: Callable[[ReadTransaction], R]) -> R:
        """Run `operation`, which sees everything that was committed before. Called on the connection's thread."""


class Engine(Protocol):
    """A database."""

    @property
    def dialect(self) -> Dialect:
        """Where its SQL differs."""

    @property
    def shared(self) -> bool:
        """Whether other processes may write to this database at the same time."""

    async def open(self) -> tuple[Writer, Sequence[Reader]]:
        """Create or migrate the database and connect to it. Raises OperatorError if that is impossible."""

    async def close(self) -> None:
        """Finish the reads and writes that wait and disconnect."""

    def lease(self, name: str) -> AbstractAsyncContextManager[bool]:
        """Return a context whose value is whether this process holds the lease; see Database.lease."""

    def shrink(self, tx: Transaction) -> int:
        """Give some free space back to the system. Return the bytes, 0 when nothing is left to give."""

    async def check(self) -> None:
        """Raise ServiceUnavailable with the reason if the database cannot work, as far as a quick look shows it."""

    def disk_usage(self, tx: ReadTransaction) -> DiskUsage:
        """Return the sizes of the database."""
