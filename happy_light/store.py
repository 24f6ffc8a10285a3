"""The one place that knows SQLite: connections, the writer, transactions, the schema.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import aiosqlite

from happy_light import wire
from happy_light.bus import Bus, Event, Update, UpdateFrame
from happy_light.counters import Timing
from happy_light.errors import StartError, Unavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Row = tuple[Any, ...]

APPLICATION_ID: Final = 0x48617079  # "Hapy": says that a SQLite file is ours
SCHEMA_VERSION: Final = 1
MIGRATIONS: Final[dict[int, str]] = {}
"""From version n to n + 1: the SQL that changes it. Append only; schema.sql is where they all lead."""

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


class Rx:
    """A reading connection, as operations see it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def all(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """Every row."""
        return self._connection.execute(sql, args).fetchall()


class Tx(Rx):
    """A transaction, as write operations see it. `now` is its time in ms."""

    __slots__ = ("_after", "_events", "now")

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        super().__init__(connection)
        self._events: list[Event] = []
        self._after: list[Callable[[], None]] = []
        self.now = now

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """-> how many rows it changed."""
        return self._connection.execute(sql, args).rowcount

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same statement for every row."""
        self._connection.executemany(sql, rows)

    def publish(self, *events: Event) -> None:
        """Events for the bus, after the commit and only if it succeeds; updates get their seq here."""
        self._events.extend(events)

    def after_commit(self, effect: Callable[[], None]) -> None:
        """`effect` runs on the event loop after the commit, before the caller wakes. It must not wait."""
        self._after.append(effect)


class _Unit:
    """A write that waits for its turn, and what came of it."""

    __slots__ = ("error", "function", "future", "result", "tx")

    def __init__(self, function: Callable[[Tx], Any], future: asyncio.Future[Any]) -> None:
        self.function = function
        self.future = future
        self.tx: Tx | None = None
        self.result: Any = None
        self.error: BaseException | None = None


class Store:
    """The database of one server. `open`, then `write` and `read`, then `close`."""

    def __init__(self, path: Path, bus: Bus) -> None:
        self.path = path
        self._bus = bus
        self._pending: deque[_Unit] = deque()
        self._lock = threading.Lock()
        self._draining = False
        self._closed = True
        self._readers: list[aiosqlite.Connection] = []
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
        self._writer = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
        self._writer_connection = self._writer._conn
        for pragma in _PRAGMAS:
            await self._writer.execute(pragma)
        for _ in range(_READERS):
            reader = await aiosqlite.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, cached_statements=256
            )
            await reader.execute("PRAGMA query_only = ON")
            await reader.execute("PRAGMA busy_timeout = 5000")
            self._readers.append(reader)
        self._closed = False

    async def close(self) -> None:
        """Finishes the writes that wait, folds the write-ahead log into the database, closes."""
        if self._closed:
            return
        self._closed = True
        await _on_thread(self._writer, self._drain)
        for reader in self._readers:
            await reader.close()
        await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await self._writer.close()

    # ------------------------------------------------------------------------------------- reading
    def read(self, operation: Callable[Concatenate[Rx, P], R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Runs `operation(rx, …)` on a reading thread. It sees everything committed before."""
        self._turn = (self._turn + 1) % _READERS
        reader = self._readers[self._turn]
        rx = Rx(reader._conn)
        return _on_thread(reader, lambda: operation(rx, *args, **kwargs))

    # ------------------------------------------------------------------------------------- writing
    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Runs `operation(tx, …)` on the writer's thread; the result comes when it is on disk.

        Writes run in the order of these calls. A caller that stops waiting does not cancel its write.
        Raises what the operation raised (nothing of it is stored then), or Unavailable.
        """
        if self._closed or len(self._pending) >= _PENDING_MAX:
            raise Unavailable("The server is stopping" if self._closed else "Too many writes are waiting")
        future: asyncio.Future[R] = self._loop.create_future()
        unit = _Unit(lambda tx: operation(tx, *args, **kwargs), future)
        with self._lock:
            self._pending.append(unit)
            if self._draining:
                return future
            self._draining = True
        _ship(self._writer, None, self._drain)
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
        tx = Tx(connection, now)
        try:
            unit.result, unit.error = unit.function(tx), None
            unit.tx = tx
        except Exception as error:
            if not connection.in_transaction:  # SQLite gave up the whole transaction (a full disk)
                raise
            connection.execute("ROLLBACK TO unit")
            unit.tx, unit.error = None, _understandable(error)
        connection.execute("RELEASE unit")

    def _finish(self, group: list[_Unit], events: list[Event]) -> None:
        """On the event loop: what is on disk is announced first, then the callers wake."""
        self._bus.publish(events)
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


def _number(connection: sqlite3.Connection, group: list[_Unit], now: int) -> list[Event]:
    """Gives every update of the group its account's next seq, inside the transaction."""
    events = [event for unit in group if unit.tx is not None for event in unit.tx._events]
    counts: dict[str, int] = {}
    for event in events:
        if isinstance(event, Update):
            counts[event.to.account_id] = counts.get(event.to.account_id, 0) + 1
    following: dict[str, int] = {}
    for account_id, count in counts.items():
        row = connection.execute(
            "UPDATE accounts SET seq = seq + ? WHERE id = ? RETURNING seq", (count, account_id)
        ).fetchone()
        if row is not None:  # an account that this very group deleted has nobody to tell
            following[account_id] = row[0] - count + 1
    numbered: list[Event] = []
    for event in events:
        if isinstance(event, Update):
            seq = following.get(event.to.account_id)
            if seq is None:
                continue
            following[event.to.account_id] = seq + 1
            event.frame = UpdateFrame(wire.new_id()[-12:], seq, event.body, now)
        numbered.append(event)
    return numbered


def _understandable(error: Exception) -> Exception:
    """A database error as what it means to a client; everything else as it is."""
    if isinstance(error, sqlite3.OperationalError):
        log.error("database: %s", error)
        return Unavailable("The server cannot write to its database")
    return error


# ---------------------------------------------------------------------------- aiosqlite's own thread
def _ship(connection: aiosqlite.Connection, future: asyncio.Future[Any] | None, job: Callable[[], Any]) -> None:
    """Puts a function on the connection's thread; aiosqlite has no public way to do that."""
    connection._tx.put_nowait((future, job))


def _on_thread(connection: aiosqlite.Connection, job: Callable[[], R]) -> asyncio.Future[R]:
    future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    _ship(connection, future, job)
    return future


# ---------------------------------------------------------------------------------------- the schema
def schema() -> str:
    """The text of schema.sql: inside the wheel, or one level up in a checkout."""
    here = Path(__file__).parent
    for folder in (here, here.parent):
        if (file := folder / "schema.sql").is_file():
            return file.read_text("utf-8")
    raise StartError("schema.sql is missing from the installation; install happy-server-light again.")


@contextlib.contextmanager
def look(path: Path) -> Iterator[Rx]:
    """A database to read from, whether or not a server runs on it. Raises StartError if it is none of ours."""
    if not path.is_file():
        raise StartError(f"There is no database {path}; choose the data folder with --data-dir.")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise StartError(f"The database {path} cannot be opened: {error}.") from error
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if owner != APPLICATION_ID:
            raise StartError(f"{path} is not a database of happy-server-light.")
        if version != SCHEMA_VERSION:
            newer = "install that version" if version > SCHEMA_VERSION else "run `happy-server-light migrate` first"
            raise StartError(f"{path} has schema {version}, this version knows {SCHEMA_VERSION}; {newer}.")
        yield Rx(connection)
    except sqlite3.Error as error:
        raise StartError(f"The database {path} cannot be read: {error}.") from error
    finally:
        connection.close()


def prepare(path: Path) -> None:
    """Makes the database, or migrates it after a copy, or raises StartError and touches nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        head = b""
        with contextlib.suppress(OSError):  # what is wrong with the place shows below
            path.touch(mode=0o600)
    except OSError as error:
        raise StartError(f"The database {path} cannot be read: {error.strerror}.") from error
    if head and head != b"SQLite format 3\0":
        raise StartError(f"{path} is not a SQLite database; move it away or choose another data folder.")
    try:
        version = _look(path) if head else 0
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _migrate(connection, path, version)
    except sqlite3.Error as error:
        raise StartError(f"The database {path} cannot be used: {error}.") from error


def _look(path: Path) -> int:
    """-> the schema's version, 0 for an empty database. Raises StartError if it is not one to work with.

    Read-only, since even closing another program's database would fold its write-ahead log into it.
    """
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if owner != APPLICATION_ID and tables:
        if {"Account", "SessionMessage"} <= tables:
            raise StartError(
                f"{path} was made by another Happy server and was not touched. Move it to another place and "
                "take it over with: happy-server-light import <that file>"
            )
        raise StartError(f"{path} belongs to another program and was not touched; choose another data folder.")
    if version > SCHEMA_VERSION:
        raise StartError(
            f"{path} was written by a newer happy-server-light (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); install that version or restore an older backup."
        )
    return version if tables else 0


def _migrate(connection: sqlite3.Connection, path: Path, version: int) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    if not version:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _in_one_transaction(connection, schema(), SCHEMA_VERSION)
        return
    if version < SCHEMA_VERSION:
        copy = path.with_name(f"{path.name}.before-{SCHEMA_VERSION}")
        with sqlite3.connect(copy) as target:
            connection.backup(target)
        target.close()
        log.info("copied the database to %s before migrating it", copy)
    while version < SCHEMA_VERSION:
        _in_one_transaction(connection, MIGRATIONS[version], version + 1)
        version += 1


def _in_one_transaction(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Runs a script and notes the version it leads to, all or nothing."""
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {version};\nCOMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
