"""The database that an exported account joins: one transaction, which counts only once `install` was called."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from happy_light import store
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import install
from happy_light.importing.report import Report
from happy_light.store import Transaction
from happy_light.store.sqlite.dialect import DIALECT


class AccountTarget(Protocol):
    """A database of ours in an open transaction."""

    @property
    def tx(self) -> Transaction:
        """The transaction."""

    @property
    def is_new(self) -> bool:
        """Whether no server was ever started on it."""

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What the database raises for a row that it cannot store."""

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Commit, with the files and the secret that are in `staging`. Raises OperatorError."""


def open_target(settings: Settings, staging: Path) -> AbstractContextManager[AccountTarget]:
    """Open the settings' database. Without `install` nothing of it stays. Raises OperatorError."""
    if settings.postgres is None:
        return _open_file(settings, staging)
    store.require_postgres()
    from happy_light.importing.postgres_target import open_postgres_to_add

    return open_postgres_to_add(settings.postgres)


class _FileTarget:
    """The SQLite file of the data folder; a new one is made in the staging folder."""

    refusals: Final = (sqlite3.IntegrityError, OverflowError)

    def __init__(self, connection: sqlite3.Connection, is_new: bool) -> None:
        self._connection = connection
        self.tx = Transaction(connection, DIALECT, now_ms())
        self.is_new = is_new

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Commit; the files of an account that joins others come first: until then nobody sees them."""
        if not self.is_new:
            install.upload(settings, staging)
            install.install_files(settings, staging)
        self._connection.execute("COMMIT")
        self._connection.close()
        if self.is_new:
            install.install(settings, staging, report)


@contextlib.contextmanager
def _open_file(settings: Settings, staging: Path) -> Iterator[AccountTarget]:
    install.count_accounts(settings.database)  # is it one of ours at all?
    is_new = not settings.database.exists()
    database = staging / install.DATABASE if is_new else settings.database
    store.create_or_migrate(database)
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "busy_timeout = 5000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        yield _FileTarget(connection, is_new)
    except sqlite3.Error as error:
        raise OperatorError(f"The account cannot be imported, and nothing was changed: {error}.") from error
    finally:
        connection.close()
