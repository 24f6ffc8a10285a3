"""What SQLite does in its own way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from happy_light.errors import ServiceUnavailable
from happy_light.store.sqlite import json_rows
from happy_light.store.transaction import Connection, Row


class SqliteDialect:
    """The differences that operations see; SQLite otherwise takes the portable SQL as it is."""

    def fetch_json(
        self, connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any], last: str
    ) -> tuple[bytes, Any]:
        """Let SQLite write the list itself; see json_rows."""
        query = f"SELECT CAST(group_concat({json_rows.expression(kind)}) AS BLOB), {last} FROM ({sql})"
        try:
            rows, found = connection.execute(query, args).fetchone()
        except sqlite3.DataError:  # over 1 GB
            raise ServiceUnavailable("The answer is too large; ask for fewer at a time") from None
        return b"[" + (rows or b"") + b"]", found

    def stream(self, connection: Connection, sql: str, args: Sequence[Any]) -> Iterator[Row]:
        """Yield the rows as SQLite finds them."""
        cursor = connection.execute(sql, args)
        while (row := cursor.fetchone()) is not None:
            yield row

    def size_of(self, *columns: str) -> str:
        """Return the SQL for the bytes of texts; the cast copies nothing."""
        return " + ".join(f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in columns)

    def count(self, connection: Connection, table: str) -> int:
        """Return how many rows a table has, which reads an index of it."""
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


DIALECT: Final = SqliteDialect()
