"""A database of another server, as the import sees it: one snapshot, read row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]


class Source(Protocol):
    """One consistent snapshot; at most one iterator is in use at a time. Raises StartError on failures."""

    name: str
    """What to call it in messages; never with a password."""

    def tables(self) -> dict[str, set[str]]:
        """Table -> its columns."""
        ...

    def rows(
        self,
        table: str,
        columns: Sequence[str | None],
        order: Sequence[str] = (),
        where: tuple[str, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """Rows with these columns (null for None or one that is missing), without holding them all.

        `where`: only rows whose column has one of these values.
        """
        ...

    def tops(self, table: str, group: str, value: str) -> Iterator[Row]:
        """(group, how many rows, highest value) of every group, by group."""
        ...

    def count(self, table: str) -> int:
        """How many rows."""
        ...

    def close(self) -> None:
        """Lets the database go."""
        ...


def quote(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def select(table: str, columns: Sequence[str], order: Sequence[str], where: str | None) -> str:
    """A SELECT of column expressions; `where` is a whole condition."""
    sql = f"SELECT {', '.join(columns)} FROM {quote(table)}"
    if where is not None:
        sql += f" WHERE {where}"
    if order:
        sql += f" ORDER BY {', '.join(quote(name) for name in order)}"
    return sql


def tops(table: str, group: str, value: str) -> str:
    """The statement of `Source.tops`."""
    by = quote(group)
    return f"SELECT {by}, count(*), max({quote(value)}) FROM {quote(table)} GROUP BY {by} ORDER BY {by}"
