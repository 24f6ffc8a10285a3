"""The tables of our own databases, as schema.sql has them, whatever the engine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Final, NamedTuple

from happy_light.store.sqlite.schema import schema_sql

SCHEMA_VERSION_KEY: Final = "schema-version"
"""The row of `meta` that belongs to a PostgreSQL database and not to its content."""


class OwnTable(NamedTuple):
    """A table with its columns and their types: TEXT, INTEGER or BLOB."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    group: int | None
    """The position of the column that says whose a row is: an account's, or a session's."""

    @property
    def select(self) -> str:
        """The statement that reads every row that is moved."""
        where = f" WHERE key <> '{SCHEMA_VERSION_KEY}'" if self.name == "meta" else ""
        return f"SELECT {', '.join(self.columns)} FROM {self.name}{where}"

    @property
    def insert(self) -> str:
        """The statement that stores a row."""
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({', '.join('?' * len(self.columns))})"

    @property
    def shown(self) -> str:
        """What an operator calls the rows."""
        return "notes about the server" if self.name == "meta" else self.name.replace("_", " ")


def own_tables() -> list[OwnTable]:
    """Return every table, each behind those that it refers to."""
    with closing(sqlite3.connect(":memory:")) as schema:
        schema.executescript(schema_sql())
        names = [name for (name,) in schema.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        parents = {
            name: {row[2] for row in schema.execute(f"PRAGMA foreign_key_list({name})")} - {name} for name in names
        }
        ordered: list[str] = []
        while names:
            ready = [name for name in names if parents[name] <= set(ordered)]
            ordered += ready
            names = [name for name in names if name not in ready]
        return [_table(schema, name) for name in ordered]


def _table(schema: sqlite3.Connection, name: str) -> OwnTable:
    described = schema.execute(f"PRAGMA table_info({name})").fetchall()
    columns = tuple(row[1] for row in described)
    whose = next((one for one in ("account_id", "session_id", "from_id", "id") if one in columns), None)
    group = "session_id" if name == "messages" else whose
    return OwnTable(name, columns, tuple(row[2] for row in described), None if group is None else columns.index(group))
