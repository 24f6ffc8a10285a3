"""Which engine the settings name."""

from __future__ import annotations

from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store.engine import Engine
from happy_light.store.sqlite.engine import SqliteEngine


def engine_of(settings: Settings) -> Engine:
    """Return the engine of the settings' database. Raises OperatorError if its library is not installed."""
    if settings.postgres is None:
        return SqliteEngine(settings.database)
    try:
        from happy_light.store.postgres.engine import PostgresEngine  # the light flavor has no psycopg
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg" and "libpq" not in str(error):
            raise
        raise OperatorError(
            "PostgreSQL needs a library that is not installed; install it with: pip install 'happy-server-light[full]'."
        ) from None
    return PostgresEngine(settings.postgres)
