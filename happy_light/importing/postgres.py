"""Read a PostgreSQL database, or PGlite through its socket server. Needs the extra `postgres`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from happy_light.config import PostgresUrl, postgres_url
from happy_light.errors import OperatorError
from happy_light.importing import sources
from happy_light.importing.sources import Row, quote

_FETCH: Final = 200  # rows in a round trip: fast enough, and little memory when rows are large


class Postgres:
    """A `Source` in one read-only transaction, over one connection, since PGlite allows no second one."""

    def __init__(self, url: str) -> None:
        """Connect. Raises OperatorError, whose text never has the password in it."""
        try:
            import psycopg
        except ImportError:
            raise OperatorError(
                "Reading PostgreSQL needs psycopg; install it with: pipx inject happy-server-light 'psycopg[binary]' "
                "(or pip install 'happy-server-light[postgres]')."
            ) from None
        self._errors = psycopg.Error
        try:
            parsed = postgres_url.parse(url)
        except ValueError as error:
            raise OperatorError(f"SOURCE is not {error}.") from None
        self.url = parsed
        self.name = str(parsed)
        password = urlsplit(url).password
        try:
            # No prepared statements: each is used once, and PGlite may not have them.
            self._connection = psycopg.connect(parsed.text, prepare_threshold=None, connect_timeout=20)
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            self._types = self._find()
        except psycopg.Error as error:
            raise OperatorError(f"{self.name} cannot be read: {_plain(error, password)}.") from error
        self._cursors = 0

    def _find(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for table, column, kind in self._connection.execute(
            "SELECT c.table_name::text, c.column_name::text, c.data_type::text FROM information_schema.columns c "
            "JOIN information_schema.tables t USING (table_schema, table_name) "
            "WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' ORDER BY 1"
        ):
            found.setdefault(table, {})[column] = kind
        return found

    def has_ours(self) -> bool:
        """Return whether a server of ours keeps its tables in this database, beside others or alone."""
        return bool(self._value("SELECT to_regclass('happy_light.meta') IS NOT NULL"))

    def is_same(self, url: PostgresUrl) -> bool:
        """Return whether `url` leads to this database. Raises OperatorError if it leads nowhere."""
        other = Postgres(url.text)
        try:
            return self._identity() == other._identity()
        finally:
            other.close()

    def _identity(self) -> str:
        return str(self._value("SELECT pg_postmaster_start_time()::text || ' ' || current_database()"))

    def _value(self, sql: str) -> Any:
        try:
            row = self._connection.execute(sql.encode()).fetchone()
        except self._errors as error:
            raise OperatorError(f"{self.name} cannot be read: {_plain(error, None)}.") from error
        return row[0] if row else None

    def tables(self) -> dict[str, set[str]]:
        """Return the columns of each table."""
        return {table: set(columns) for table, columns in self._types.items()}

    def _expression(self, table: str, name: str | None) -> str:
        """Return an expression for a column that gives the types of the SQLite files: ms, text, bytes."""
        kind = self._types[table].get(name) if name is not None else None
        if name is None or kind is None:
            return "NULL"
        if kind.startswith("timestamp"):
            return f"(extract(epoch FROM {quote(name)}) * 1000)::bigint"
        if kind in ("json", "jsonb", "USER-DEFINED"):
            return f"{quote(name)}::text"
        return quote(name)

    def rows(
        self,
        table: str,
        columns: Sequence[str | None],
        order: Sequence[str] = (),
        where: tuple[str, Sequence[str]] | None = None,
    ) -> Iterator[Row]:
        """Yield the rows; see `Source.rows`."""
        picked = [self._expression(table, name) for name in columns]
        condition = None if where is None else f"{quote(where[0])} = ANY(%s)"
        ordered = [name for name in order if name in self._types[table]]
        return self._run(sources.select(table, picked, ordered, condition), () if where is None else (list(where[1]),))

    def tops(self, table: str, group: str, value: str) -> Iterator[Row]:
        """Yield the highest `value` of each `group`."""
        return self._run(sources.tops(table, group, value))

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ((number,),) = self._run(f"SELECT count(*) FROM {quote(table)}")
        return int(number)

    def _run(self, sql: str, arguments: Sequence[Any] = ()) -> Iterator[Row]:
        self._cursors += 1
        try:
            with self._connection.cursor(f"happy_{self._cursors}", binary=True) as cursor:
                cursor.itersize = _FETCH
                cursor.execute(sql, arguments)
                yield from cursor
        except self._errors as error:
            raise OperatorError(f"{self.name} cannot be read: {_plain(error, None)}.") from error

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def _plain(error: Exception, password: str | None) -> str:
    """Return the first line of the database's error message, without the password."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return line.replace(password, "***") if password else line
