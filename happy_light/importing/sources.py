"""The interface of a database of another server: one snapshot, read row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]


class Source(Protocol):
    """One consistent snapshot. At most one iterator is in use at a time. Every method raises OperatorError."""

    name: str
    """What messages call it; never with a password."""

    def tables(self) -> dict[str, set[str]]:
        """Return the columns of each table."""
        ...

    def rows(
        self,
        table: str,
        columns: Sequence[str | None],
        order: Sequence[str] = (),
        where: tuple[str, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """Yield rows with these columns, without loading all of them; null for None and for a column that is missing.

        `where` is a column and its values: only rows that have one of them are yielded.
        """
        ...

    def tops(self, table: str, group: str, value: str) -> Iterator[Row]:
        """Yield each group with the number of its rows and their highest value, by group."""
        ...

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ...

    def close(self) -> None:
        """Close the database."""
        ...


def quote(name: str) -> str:
    """Return a name as a quoted identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def select(table: str, columns: Sequence[str], order: Sequence[str], where: str | None) -> str:
    """Return a SELECT of column expressions; `where` is a complete condition."""
    sql = f"SELECT {', '.join(columns)} FROM {quote(table)}"
    if where is not None:
        sql += f" WHERE {where}"
    if order:
        sql += f" ORDER BY {', '.join(quote(name) for name in order)}"
    return sql


def tops(table: str, group: str, value: str) -> str:
    """Return the statement for `Source.tops`."""
    by = quote(group)
    return f"SELECT {by}, count(*), max({quote(value)}) FROM {quote(table)} GROUP BY {by} ORDER BY {by}"
