"""The database of a server under test, as a test looks into it behind the server's back.

With `pytest --database postgres` each data folder gets a fresh PostgreSQL database; otherwise it has its SQLite file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.services import Databases

FILE = "happy-server-light.sqlite"


class Engine:
    """Which engine the servers under test use: SQLite while there are no `databases`."""

    databases: Databases | None = None
    urls: dict[Path, str] = {}


def use(databases: Databases) -> None:
    """Give every folder a database of its own there."""
    Engine.databases = databases


def environ(folder: Path) -> dict[str, str]:
    """Return what a server on this data folder needs in its environment to find its database."""
    if Engine.databases is None:
        return {}
    if folder not in Engine.urls:
        Engine.urls[folder] = Engine.databases.create()
    return {"DATABASE_URL": Engine.urls[folder]}


def storable(texts: Iterable[str]) -> list[str]:
    """Return those of the texts that the database can store: PostgreSQL's cannot contain U+0000."""
    return [text for text in texts if Engine.databases is None or "\0" not in text]


def query(folder: Path, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement of portable SQL on the database of a folder and return its rows. It is committed."""
    if Engine.databases is None:
        with closing(sqlite3.connect(folder / FILE, timeout=20)) as connection, connection:
            return connection.execute(sql, args).fetchall()
    import psycopg

    with psycopg.connect(environ(folder)["DATABASE_URL"], options="-c search_path=happy_light") as server:
        cursor = server.execute(re.sub(r"\?", "%s", sql).encode(), args)
        return cursor.fetchall() if cursor.description else []
