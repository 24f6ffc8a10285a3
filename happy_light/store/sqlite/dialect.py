"""What SQLite does in its own way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from happy_light.errors import ServiceUnavailable
from happy_light.store.sqlite import json_rows
from happy_light.store.transaction import Connection, Row, SizeLimit


class SqliteDialect:
    """The differences that operations see; SQLite otherwise takes the portable SQL as it is."""

    def fetch_json(self, connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any]) -> bytes:
        """Let SQLite write the list itself; see json_rows."""
        return _fetch_json(connection, kind, sql, args, "NULL")[0]

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
        """Look at the sizes first, which reads no long text."""
        sizes = f"SELECT {limit.size} AS size {source}"
        large = connection.execute(f"SELECT 1 FROM ({sizes}) WHERE size > {limit.most} LIMIT 1", args).fetchone()
        if large is not None:
            return None, 0, None
        return _fetch_json(connection, kind, f"SELECT {columns} {source}", args, last)

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


def _fetch_json(
    connection: Connection, kind: type[msgspec.Struct], sql: str, args: Sequence[Any], last: str
) -> tuple[bytes, int, Any]:
    """Return the rows as a JSON list, how many there are, and the aggregate `last` over them."""
    query = f"SELECT CAST(group_concat({json_rows.expression(kind)}) AS BLOB), count(*), {last} FROM ({sql})"
    try:
        rows, count, found = connection.execute(query, args).fetchone()
    except sqlite3.DataError:  # over 1 GB
        raise ServiceUnavailable("The answer is too large; ask for fewer at a time") from None
    return b"[" + (rows or b"") + b"]", count, found


DIALECT: Final = SqliteDialect()
