"""Where an import puts a database: a new SQLite file, or PostgreSQL. Nothing counts until `install`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from happy_light import store
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import install
from happy_light.importing.own_tables import OwnTable
from happy_light.importing.report import Report
from happy_light.store import Row, Transaction
from happy_light.store.sqlite.dialect import DIALECT


class Target(Protocol):
    """An empty database that is filled in one transaction."""

    @property
    def tx(self) -> Transaction:
        """The transaction."""

    @property
    def replaced(self) -> int:
        """How many accounts were there before, and will be replaced."""

    def fill(self, table: OwnTable, rows: Iterator[Row]) -> None:
        """Store the rows of a table. Raises OperatorError for a row that cannot be stored."""

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Commit, with the files and the secret that are in `staging`. Raises OperatorError."""


def open_target(settings: Settings, staging: Path) -> AbstractContextManager[Target]:
    """Open the database of the settings as a target. Without `install` nothing of it stays. Raises OperatorError."""
    if settings.postgres is None:
        return _open_file(settings, staging)
    store.require_postgres()
    from happy_light.importing.postgres_target import open_postgres

    return open_postgres(settings.postgres)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Create a database file and yield a connection that fills it, to be closed before the file is used.

    Raises OperatorError.
    """
    store.create_or_migrate(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Nobody else reads this file, and it is deleted if anything fails: no journal is needed.
        for pragma in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF", "cache_size = -64000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        yield connection
    except sqlite3.Error as error:
        raise OperatorError(f"The database cannot be copied: {error}.") from error
    finally:
        connection.close()


def finish_file(connection: sqlite3.Connection) -> None:
    """Commit what `new_file` was filled with, and give the file the journal that the server uses."""
    if connection.in_transaction:
        connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()


class _FileTarget:
    """A new file in the staging folder."""

    def __init__(self, connection: sqlite3.Connection, replaced: int) -> None:
        self._connection = connection
        self.tx = Transaction(connection, DIALECT, now_ms())
        self.replaced = replaced

    def fill(self, table: OwnTable, rows: Iterator[Row]) -> None:
        """Insert the rows."""
        self._connection.executemany(table.insert, rows)

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Move everything into the data folder."""
        lost = self._connection.execute("PRAGMA foreign_key_check").fetchone()
        if lost is not None:
            raise OperatorError(
                f"The check after the import failed, and nothing was changed: {lost[0]} has no {lost[2]}."
            )
        finish_file(self._connection)
        self._connection.close()
        install.install(settings, staging, report)


@contextlib.contextmanager
def _open_file(settings: Settings, staging: Path) -> Iterator[Target]:
    there = install.count_accounts(settings.database)
    with new_file(staging / install.DATABASE) as connection:
        yield _FileTarget(connection, there)
