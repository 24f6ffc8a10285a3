"""Which engine the settings name, and what commands do with a database without opening an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store.engine import Engine
from happy_light.store.sqlite import schema
from happy_light.store.sqlite.engine import SqliteEngine
from happy_light.store.transaction import ReadTransaction


def engine_of(settings: Settings, outbox: bool = True) -> Engine:
    """Return the engine of the settings' database. Raises OperatorError if its library is not installed.

    `outbox`: keep updates for other processes, if the database can have any.
    """
    if settings.postgres is None:
        return SqliteEngine(settings.database)
    require_postgres()
    from happy_light.store.postgres.engine import PostgresEngine

    return PostgresEngine(settings.postgres, outbox)


def migrate(settings: Settings) -> None:
    """Bring the settings' database to the current schema. Raises OperatorError."""
    if settings.postgres is None:
        schema.create_or_migrate(settings.database)
    else:
        require_postgres().create_or_migrate(settings.postgres)


@contextlib.contextmanager
def open_for_reading(settings: Settings) -> Iterator[ReadTransaction]:
    """Open the settings' database for reading, whether or not a server runs on it: all reads see one moment.

    Raises OperatorError if it is not a database of this program and version, or cannot be read.
    """
    if settings.postgres is None:
        with schema.open_readonly(settings.database) as tx:
            yield tx
    else:
        with require_postgres().open_readonly(settings.postgres) as tx:
            yield tx


def require_postgres() -> ModuleType:
    """Return the module postgres/schema.py. Raises OperatorError if psycopg is not installed."""
    try:
        from happy_light.store.postgres import schema as postgres_schema
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg" and "libpq" not in str(error):
            raise
        raise OperatorError(
            "PostgreSQL needs a library that is not installed; install it with: pip install 'happy-server-light[full]'."
        ) from None
    return postgres_schema
