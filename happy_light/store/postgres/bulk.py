"""Fill the schema happy_light with many rows, in one transaction that also creates it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import psycopg

from happy_light import clock
from happy_light.config import PostgresUrl
from happy_light.errors import OperatorError
from happy_light.store.postgres import schema
from happy_light.store.postgres.connection import SCHEMA, PostgresConnection
from happy_light.store.postgres.dialect import DIALECT
from happy_light.store.postgres.errors import reason
from happy_light.store.transaction import Row, Transaction

_TYPES: Final = {"TEXT": "text", "INTEGER": "int8", "BLOB": "bytea"}
_WAIT: Final = "10s"  # for a table that somebody reads


class Bulk:
    """The open transaction."""

    def __init__(self, url: PostgresUrl, connection: PostgresConnection) -> None:
        self._url = url
        self._connection = connection
        self.tx = Transaction(connection, DIALECT, clock.now_ms())

    def accounts(self) -> int:
        """Return how many accounts there are."""
        return int(self._connection.execute("SELECT count(*) FROM accounts").fetchone()[0])

    def refuse_servers(self) -> None:
        """Raise OperatorError if servers use the database."""
        schema.refuse_servers(self._connection, self._url)

    def clear(self) -> None:
        """Delete everything. Raises OperatorError if servers use the database."""
        self.refuse_servers()
        tables = self._connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = ?", (SCHEMA,)).fetchall()
        names = ", ".join(name for (name,) in tables if name != "meta")
        self._connection.execute(f"TRUNCATE {names}")
        self._connection.execute("DELETE FROM meta WHERE key <> ?", (schema.VERSION_KEY,))

    def copy(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[Row]) -> None:
        """Store rows. Raises OperatorError for one that PostgreSQL cannot store."""
        texts = [position for position, kind in enumerate(types) if kind == "TEXT"]
        cursor = self._connection.raw.cursor()
        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types([_TYPES[kind] for kind in types])
            for row in rows:
                for position in texts:
                    if row[position] is not None and "\0" in row[position]:
                        raise OperatorError(
                            f"PostgreSQL cannot store the character U+0000, which is in {columns[position]} of a row "
                            f"of {table} ({columns[0]} {row[0]!r:.80}). Nothing was changed; delete that row first."
                        )
                copy.write_row(row)

    def commit(self) -> None:
        """Commit, and let PostgreSQL look at what it has now."""
        self._connection.execute("COMMIT")
        self._connection.execute("ANALYZE")


@contextlib.contextmanager
def open_bulk(url: PostgresUrl) -> Iterator[Bulk]:
    """Begin a transaction with the current schema; what is not committed at the end is undone. Raises OperatorError."""
    connection = PostgresConnection(
        url.text, readonly=False, lock_timeout=_WAIT, statement_timeout="0", idle_in_transaction_session_timeout="0"
    )
    try:
        connection.connect()
        schema.check_server(connection.raw, url)
        connection.execute("BEGIN")
        schema.migrate_inside(connection.raw, url)
        yield Bulk(url, connection)
    except psycopg.errors.LockNotAvailable:
        raise OperatorError(f"The database {url} is in use; stop what uses it first.") from None
    except psycopg.errors.ProgramLimitExceeded as error:
        raise OperatorError(
            f"A key is too long for PostgreSQL ({reason(error)}). Nothing was changed; delete what has it first."
        ) from None
    except psycopg.Error as error:
        raise OperatorError(f"The database {url} cannot be filled, and nothing was changed: {reason(error)}.") from None
    finally:
        connection.close()
