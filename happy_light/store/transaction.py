"""A transaction and a read transaction, as operations see them; the same for every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import msgspec

from happy_light.bus import Event, InternalMessage

Row = tuple[Any, ...]
S = TypeVar("S", bound=msgspec.Struct)


class SizeLimit(NamedTuple):
    """How large a row of a list may be: the SQL for its size, and the largest that is allowed, both in bytes."""

    size: str
    most: int


class Cursor(Protocol):
    """What a statement returned. `rowcount` is the number of rows that it changed."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""

    @property
    def description(self) -> Any:
        """The columns of the result."""

    def fetchone(self) -> Any:
        """Return the next row; None after the last one."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""


class Connection(Protocol):
    """A connection of an engine. Its SQL is the portable subset, with `?` for a value."""

    def execute(self, sql: str, args: Sequence[Any] = ..., /) -> Cursor:
        """Run a statement."""

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]], /) -> object:
        """Run a statement for each row of values."""


class Dialect(Protocol):
    """Where the engines' SQL differs."""

    def fetch_json(self, connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any]) -> bytes:
        """Return the rows of `sql` as a JSON list of `kind`."""

    def fetch_small_json(
        self,
        connection: Connection,
        kind: type[msgspec.Struct],
        columns: str,
        source: str,
        args: Sequence[Any],
        limit: SizeLimit,
        last: str,
    ) -> tuple[bytes | None, int, Any]:
        """Do what ReadTransaction.fetch_small_json does."""

    def stream(self, connection: Connection, sql: str, args: Sequence[Any]) -> Iterator[Row]:
        """Yield the rows of `sql` without loading all of them."""

    def size_of(self, *columns: str) -> str:
        """Return the SQL for the bytes of texts in UTF-8, without counting characters; NULL has none."""

    def count(self, connection: Connection, table: str) -> int:
        """Return how many rows a table has; of a large one, an estimate if the engine has one."""


class ReadTransaction:
    """What a read operation may do."""

    __slots__ = ("_connection", "_dialect")

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def fetch_one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """Return the first row, or None."""
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def fetch_all(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """Return every row."""
        return self._connection.execute(sql, args).fetchall()

    def stream(self, sql: str, args: Sequence[Any] = ()) -> Iterator[Row]:
        """Yield every row, however many there are; for commands, not for the short operations of a server."""
        return self._dialect.stream(self._connection, sql, args)

    def fetch_json(self, kind: type[S], sql: str, args: Sequence[Any]) -> list[S]:
        """Return the rows of `sql` as `kind`.

        The columns of `sql` have the names of the fields of `kind`. A field that is a struct is one column if it has
        one field, else the columns `<field>_<field of it>`, and null if it may be that and the first of them is NULL.
        The list is encoded JSON that can only be put into an answer. Raises ServiceUnavailable if it is too large.
        """
        return cast("list[S]", msgspec.Raw(self._dialect.fetch_json(self._connection, kind, sql, args)))

    def fetch_small_json(
        self, kind: type[S], columns: str, source: str, args: Sequence[Any], limit: SizeLimit, last: str = "NULL"
    ) -> tuple[list[S] | None, int, Any]:
        """Return the rows of `SELECT columns source` as `fetch_json` does, how many there are, and `last`.

        `last` is an aggregate over them, None if there are no rows. If a row is larger than the limit, none is read,
        and None is returned for the list.
        """
        rows, count, found = self._dialect.fetch_small_json(self._connection, kind, columns, source, args, limit, last)
        return None if rows is None else cast("list[S]", msgspec.Raw(rows)), count, found

    def size_of(self, *columns: str) -> str:
        """Return the SQL for the bytes of texts in UTF-8, which is faster than `length`; NULL has none."""
        return self._dialect.size_of(*columns)

    def count(self, table: str) -> int:
        """Return how many rows a table has; of a large one, an estimate if the engine has one."""
        return self._dialect.count(self._connection, table)


class Transaction(ReadTransaction):
    """What a write operation may do. `now` is the time of the transaction in ms.

    An operation may run twice before it is committed, so it must not change anything but the transaction.
    """

    __slots__ = ("messages", "now")

    def __init__(self, connection: Connection, dialect: Dialect, now: int) -> None:
        super().__init__(connection, dialect)
        self.now = now
        self.messages: list[Event | InternalMessage] = []
        """What was published so far, for the store."""

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Run a statement. Return how many rows it changed; see `queue` if that is not needed."""
        return self._connection.execute(sql, args).rowcount

    def queue(self, sql: str, args: Sequence[Any] = ()) -> None:
        """Run a statement whose count nobody needs, so that an engine far away need not be waited for.

        What it does is there for the statements that follow; its error may come with one of them.
        """
        self._connection.executemany(sql, (args,))

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run the same statement for every row of values."""
        self._connection.executemany(sql, rows)

    def publish(self, *messages: Event | InternalMessage) -> None:
        """Hand messages to the bus after the commit, if it succeeds; updates get their seq in the transaction."""
        self.messages.extend(messages)
