"""A transaction and a reading connection, as operations see them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from happy_light.bus import Event
from happy_light.errors import ServiceUnavailable
from happy_light.store import written

Row = tuple[Any, ...]
S = TypeVar("S", bound=msgspec.Struct)


class ReadTransaction:
    """A reading connection, as operations see it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch_one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        row: Row | None = self._connection.execute(sql, args).fetchone()
        return row

    def fetch_all(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """Every row."""
        return self._connection.execute(sql, args).fetchall()

    def fetch_json(self, kind: type[S], sql: str, args: Sequence[Any], last: str = "NULL") -> tuple[list[S], Any]:
        """The rows of `sql` as `kind`, and `last`, an aggregate over them (None if there are none).

        The list is already JSON, good for nothing but to be put into an answer. Raises Unavailable if it is
        too large.
        """
        row = f"SELECT CAST(group_concat({written.expression(kind)}) AS BLOB), {last} FROM ({sql})"
        try:
            ((rows, found),) = self._connection.execute(row, args)
        except sqlite3.DataError:  # over 1 GB
            raise ServiceUnavailable("The answer is too large; ask for fewer at a time") from None
        return cast("list[S]", msgspec.Raw(b"[" + (rows or b"") + b"]")), found


class Transaction(ReadTransaction):
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
