"""The schema happy_light of a PostgreSQL database as the target of an import. Needs psycopg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from happy_light.config import PostgresUrl, Settings
from happy_light.importing import install
from happy_light.importing.own_tables import OwnTable
from happy_light.importing.report import Report
from happy_light.store import Row
from happy_light.store.postgres.bulk import Bulk, open_bulk


class PostgresTarget:
    """The schema happy_light, filled with COPY."""

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self.tx = bulk.tx
        self.replaced = bulk.accounts()
        bulk.clear()

    def fill(self, table: OwnTable, rows: Iterator[Row]) -> None:
        """Copy the rows."""
        self._bulk.copy(table.name, table.columns, table.types, rows)

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Put files and secret into the data folder, and commit."""
        # In this order: what is interrupted between the two is made good by another run.
        install.install_beside(settings, staging, report)
        self._bulk.commit()


class PostgresAccountTarget:
    """The schema happy_light, to which an account is added."""

    refusals: Final = (psycopg.IntegrityError, psycopg.DataError, OverflowError)

    def __init__(self, bulk: Bulk) -> None:
        bulk.refuse_servers()
        self._bulk = bulk
        self.tx = bulk.tx
        self.is_new = not bulk.tx.fetch_all("SELECT 1 FROM meta WHERE key = 'secret_check'")

    def install(self, settings: Settings, staging: Path, report: Report) -> None:
        """Put files and secret into the data folder, and commit."""
        install.install_beside(settings, staging, report)
        self._bulk.commit()


@contextlib.contextmanager
def open_postgres_to_add(url: PostgresUrl) -> Iterator[PostgresAccountTarget]:
    """Open the database; nothing has changed in it unless `install` was called. Raises OperatorError."""
    with open_bulk(url) as bulk:
        yield PostgresAccountTarget(bulk)


@contextlib.contextmanager
def open_postgres(url: PostgresUrl) -> Iterator[PostgresTarget]:
    """Open the database; nothing has changed in it unless `install` was called. Raises OperatorError."""
    with open_bulk(url) as bulk:
        yield PostgresTarget(bulk)
