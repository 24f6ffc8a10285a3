"""SQLite behind the store: one writing connection, two reading ones, write-ahead log, full synchronization."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from happy_light import threads
from happy_light.bus import Committed
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.store.engine import ADVANCE, DiskUsage
from happy_light.store.sqlite.connection import SqliteConnection
from happy_light.store.sqlite.dialect import DIALECT
from happy_light.store.sqlite.file_check import FileCheck
from happy_light.store.sqlite.schema import create_or_migrate
from happy_light.store.transaction import ReadTransaction, Transaction

log = logging.getLogger(__name__)

R = TypeVar("R")

READERS: Final = 2
SHRINK_PAGES: Final = 256  # pages given back to the disk in one transaction
_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = 5000"  # ms; for a backup or an operator's sqlite3 shell
_WRITER_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",  # readers and the writer do not block each other
    "PRAGMA synchronous = FULL",  # a commit is on disk when it returns, in WAL mode too
    "PRAGMA foreign_keys = ON",
    _BUSY_TIMEOUT,
    "PRAGMA journal_size_limit = 67108864",  # bytes; a burst does not leave a huge -wal behind
    "PRAGMA cache_size = -8000",  # KiB
    "PRAGMA temp_store = MEMORY",
)
_READER_PRAGMAS: Final = ("PRAGMA query_only = ON", _BUSY_TIMEOUT)


class SqliteWriter:
    """The writing connection, as group commit uses it."""

    group_max = 500
    group_seconds = math.inf  # nobody else waits for the lock
    together_max = 250
    savepoints = True

    def __init__(self, connection: SqliteConnection, file: FileCheck) -> None:
        self.connection = connection.raw
        self.submit = connection.submit
        self._file = file

    def begin(self, account_ids: Collection[str]) -> None:
        """Take the lock of the whole database, before anything is read."""
        self.connection.execute("BEGIN IMMEDIATE")

    def read_ahead(self, operations: Sequence[Callable[[], object]]) -> None:
        """Do nothing: the database is in this process."""

    def advance(self, counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """Raise the seq of each account by its count."""
        for account_id, count in counts.items():
            if row := self.connection.execute(ADVANCE, (count, account_id)).fetchone():
                yield account_id, row[0]

    def deleted(self) -> Collection[str]:
        """Return none: `advance` leaves them out."""
        return ()

    def keep(self, updates: Sequence[Committed], now: int) -> None:
        """Do nothing: there is one process, and it has them."""

    def commit(self) -> None:
        """Commit and flush to disk."""
        self.connection.execute("COMMIT")

    def was_committed(self) -> bool | None:
        """Return False: a commit of SQLite either returns or fails."""
        return False

    def rollback(self) -> None:
        """Undo the transaction, unless SQLite has done it already (a full disk)."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def changes(self) -> int:
        """Return how many rows this connection has written."""
        return self.connection.total_changes

    def usable(self) -> bool:
        """Return whether there still is a transaction: SQLite gives it up when the disk is full."""
        return self.connection.in_transaction

    def is_transient(self, error: Exception) -> bool:
        """Return False: there is no other process to be in the way."""
        return False

    def translate(self, error: Exception) -> Exception:
        """Return ServiceUnavailable for an error of the database, which is logged, and any other as it is."""
        damage = self._file.see(error)
        if damage is not None:
            return damage
        if isinstance(error, sqlite3.OperationalError):
            log.error("database: %s", error)
            return ServiceUnavailable("The server cannot write to its database")
        return error


class SqliteReader:
    """A reading connection, as the read queue uses it."""

    def __init__(self, connection: SqliteConnection, file: FileCheck) -> None:
        self.submit = connection.submit
        self._file = file
        self._tx = ReadTransaction(connection.raw, DIALECT)

    def read(self, operation: Callable[[ReadTransaction], R]) -> R:
        """Run `operation`. Raises what it raises, and ServiceUnavailable if the database cannot be read."""
        try:
            return operation(self._tx)
        except sqlite3.DatabaseError as error:
            damage = self._file.see(error)
            if damage is None:
                if not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
                    raise  # SQL that is wrong
                log.error("database: %s", error)
                damage = ServiceUnavailable("The server cannot read its database")
            raise damage from error


class SqliteEngine:
    """The database file `path`."""

    dialect = DIALECT
    shared = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._readers: list[SqliteConnection] = []

    async def open(self) -> tuple[SqliteWriter, list[SqliteReader]]:
        """Create or migrate the file and connect to it. Raises OperatorError if the file cannot be used."""
        await threads.run(create_or_migrate, self.path)  # may take minutes; signals are handled meanwhile
        try:
            async with contextlib.AsyncExitStack() as opened:  # a thread that is left keeps the process alive
                self._writer = await SqliteConnection.open(self.path, "writer", _WRITER_PRAGMAS)
                opened.push_async_callback(self._writer.close)
                await self._check_writable()
                for number in range(READERS):
                    reader = await SqliteConnection.open(self.path, f"reader-{number}", _READER_PRAGMAS, readonly=True)
                    opened.push_async_callback(reader.close)
                    self._readers.append(reader)
                opened.pop_all()
        except sqlite3.Error as error:
            raise OperatorError(f"The database {self.path} cannot be used: {error}.") from error
        self._file = FileCheck(self.path)
        return SqliteWriter(self._writer, self._file), [SqliteReader(reader, self._file) for reader in self._readers]

    async def _check_writable(self) -> None:
        """Raise OperatorError for a file without write permission, which SQLite opens without an error."""
        try:
            await self._writer.execute("UPDATE meta SET value = value WHERE false")  # BEGIN would not fail
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:  # the low byte is the kind of error
                raise OperatorError(
                    f"The database {self.path} cannot be written; give the user that runs the server the right to "
                    "write it, the files beside it and their folder."
                ) from error

    async def close(self) -> None:
        """Finish what waits, fold the write-ahead log into the file, disconnect."""
        for connection in (self._writer, *self._readers):
            await connection.finish_jobs()
        for reader in self._readers:
            await reader.close()
        try:
            await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # the log keeps what it has until the next start
            log.warning("the write-ahead log stays as it is: %s", error)
        finally:
            await self._writer.close()

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[bool]:
        """Grant the lease: only one process works with a file, which the lock of the data folder ensures."""
        yield True

    def shrink(self, tx: Transaction) -> int:
        """Cut some free pages off the file. Return the bytes; 0 when none are left."""
        size = tx.fetch_all("PRAGMA page_count")[0][0]
        for _ in range(SHRINK_PAGES):  # one by one: Python steps a statement without columns once, which is one page
            tx.execute("PRAGMA incremental_vacuum(1)")
        pages: int = size - tx.fetch_all("PRAGMA page_count")[0][0]
        return pages * int(tx.fetch_all("PRAGMA page_size")[0][0])

    async def check(self) -> None:
        """Look at the file on another thread, since a disk can hang."""
        await threads.run(self._file.check)

    def disk_usage(self, tx: ReadTransaction) -> DiskUsage:
        """Return the sizes of the file, its log and its free pages."""
        page, pages, free = (
            int(tx.fetch_all(f"PRAGMA {name}")[0][0]) for name in ("page_size", "page_count", "freelist_count")
        )
        wal = self.path.with_name(f"{self.path.name}-wal")
        return DiskUsage(page * pages, wal.stat().st_size if wal.exists() else 0, page * free)
