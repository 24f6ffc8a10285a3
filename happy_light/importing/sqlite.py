"""Read the SQLite file of a light server, with the write-ahead log beside it, if there is one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from happy_light.errors import OperatorError
from happy_light.importing import sources
from happy_light.importing.sources import Row, quote


class Sqlite:
    """A `Source` that opens the file for reading only."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises OperatorError if it cannot be read."""
        self.name = str(path)
        try:
            self._connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None)
            self._connection.execute("PRAGMA query_only = ON")
            self._connection.execute("PRAGMA busy_timeout = 5000")
            self._connection.execute("BEGIN")  # one snapshot, even if its server is running
            self._tables = self._find()
        except sqlite3.Error as error:
            raise OperatorError(f"{path} cannot be read: {error}.") from error

    def _find(self) -> dict[str, set[str]]:
        names = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {
            name: {row[1] for row in self._connection.execute(f"PRAGMA table_info({quote(name)})")}
            for (name,) in names
            if not name.startswith("sqlite_")
        }

    def tables(self) -> dict[str, set[str]]:
        """Return the columns of each table."""
        return self._tables

    def rows(
        self,
        table: str,
        columns: Sequence[str | None],
        order: Sequence[str] = (),
        where: tuple[str, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """Yield the rows; see `Source.rows`."""
        present = self._tables[table]
        picked = [quote(name) if name in present else "NULL" for name in columns]
        condition = None if where is None else f"{quote(where[0])} IN ({', '.join('?' * len(where[1]))})"
        ordered = [name for name in order if name in present]
        return self._run(sources.select(table, picked, ordered, condition), () if where is None else where[1])

    def tops(self, table: str, group: str, value: str) -> Iterator[Row]:
        """Yield the highest `value` of each `group`."""
        return self._run(sources.tops(table, group, value))

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ((number,),) = self._run(f"SELECT count(*) FROM {quote(table)}")
        return int(number)

    def _run(self, sql: str, arguments: Sequence[Any] = ()) -> Iterator[Row]:
        try:
            yield from self._connection.execute(sql, arguments)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise OperatorError(f"{self.name} cannot be read: {error}.") from error

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def _uri(path: Path) -> str:
    """Return a URI that opens the file read-only.

    SQLite needs to write beside a database in WAL mode, unless it is told that the file does not change; that is so
    for one in a folder that cannot be written, without a log beside it.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    beside = path.with_name(f"{path.name}-wal")
    if not os.access(path.parent, os.W_OK) and not beside.exists():
        uri += "&immutable=1"
    return uri
