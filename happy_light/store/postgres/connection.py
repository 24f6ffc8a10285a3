"""A connection to PostgreSQL, which is made again after it was lost. Used on one thread.

Attempts to connect follow each other at growing intervals; between them whoever asks is refused at once, so nothing
waits longer than one attempt takes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import Pipeline, RawCursor, RawServerCursor

from happy_light.errors import ServiceUnavailable
from happy_light.store.postgres.errors import UNAVAILABLE, summary
from happy_light.store.postgres.errors import translate as translate_error
from happy_light.store.postgres.sql import ADAPTERS, translate

log = logging.getLogger(__name__)

R = TypeVar("R")

SCHEMA: Final = "happy_light"
CONNECT_TIMEOUT: Final = 3  # s
LOCK_TIMEOUT: Final = 3_000  # ms that a statement waits for a row that another process holds
STATEMENT_TIMEOUT: Final = 60_000  # ms
IDLE_TIMEOUT: Final = 10_000  # ms after which PostgreSQL ends the transaction of a process that was stopped
_RETRY_FIRST, _RETRY_LAST = 0.1, 3.0  # s between attempts to connect
_PREPARED_MAX: Final = 500
_FETCHED: Final = 500  # rows of a stream in one exchange
APPLICATION: Final = "happy-server-light"
"""The name under which PostgreSQL lists these connections."""
# A peer that vanished without a word is noticed after 15 s.
_PARAMETERS: Final[dict[str, Any]] = {
    "connect_timeout": CONNECT_TIMEOUT, "application_name": APPLICATION, "client_encoding": "utf8",
    "keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000,
}  # fmt: skip
# As SELECT set_config, not as `options` of the connection: poolers refuse those.
_SESSION: Final = {
    "search_path": SCHEMA,
    "default_transaction_isolation": "read committed",
    "lock_timeout": str(LOCK_TIMEOUT),
    "statement_timeout": str(STATEMENT_TIMEOUT),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT),
    "jit": "off",
}


def connect(url: str, *, readonly: bool = False, **session: str) -> psycopg.Connection[Any]:
    """Connect and set the session up. Raises psycopg.Error.

    `session` are further settings of the session.
    """
    raw: psycopg.Connection[Any] = psycopg.connect(
        url, autocommit=True, prepare_threshold=0, cursor_factory=RawCursor, context=_Context, **_PARAMETERS
    )  # fmt: skip
    try:
        raw.prepared_max = _PREPARED_MAX
        settings = {**_SESSION, "default_transaction_read_only": "on" if readonly else "off", **session}
        calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        raw.execute(f"SELECT {calls}".encode(), prepare=False)
        # An acknowledgement means on disk; a stronger setting of the operator's is kept.
        raw.execute(
            b"SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
            prepare=False,
        )
    except BaseException:
        raw.close()
        raise
    return raw


class _Context:
    """What psycopg takes adapters from."""

    adapters = ADAPTERS
    connection = None


class PostgresCursor:
    """What a statement returned."""

    __slots__ = ("_connection", "_cursor")

    def __init__(self, connection: PostgresConnection, cursor: psycopg.Cursor[Any]) -> None:
        self._connection = connection
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """How many rows were changed; waits for the answer."""
        self._connection.wait()
        return self._cursor.rowcount

    @property
    def description(self) -> Any:
        """The columns, once rows were fetched; the first item of each is its name."""
        return self._cursor.description

    @property
    def status(self) -> str | None:
        """PostgreSQL's word for what was done."""
        return self._cursor.statusmessage

    def fetchone(self) -> Any:
        """Return the next row or None; waits for the answer."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Return the rows that are left; waits for the answer."""
        return self._cursor.fetchall()


class PostgresConnection:
    """A connection as operations use it; `pipeline` while statements are sent without waiting for each answer."""

    def __init__(self, url: str, readonly: bool, **session: str) -> None:
        self._url = url
        self._readonly = readonly
        self._session = session
        self._raw: psycopg.Connection[Any] | None = None
        self._next_attempt = 0.0  # s of the monotonic clock
        self._delay = _RETRY_FIRST
        self.pipeline: Pipeline | None = None
        self.writes = 0
        """How many statements that may change rows were sent."""

    @property
    def raw(self) -> psycopg.Connection[Any]:
        """The connection of psycopg, which `ensure` has made."""
        assert self._raw is not None
        return self._raw

    @property
    def lost(self) -> bool:
        """Whether there is no connection, or one that broke."""
        return self._raw is None or self._raw.closed

    def connect(self) -> None:
        """Connect. Raises psycopg.Error."""
        self._raw = connect(self._url, readonly=self._readonly, **self._session)

    def ensure(self) -> None:
        """Connect if there is no connection. Raises ServiceUnavailable."""
        if not self.lost:
            return
        if time.monotonic() < self._next_attempt:
            raise ServiceUnavailable(UNAVAILABLE)
        try:
            self.connect()
        except psycopg.Error as error:
            log.error("database: no connection: %s", summary(error))
            self._next_attempt = time.monotonic() + self._delay
            self._delay = min(2 * self._delay, _RETRY_LAST)
            raise ServiceUnavailable(UNAVAILABLE) from None
        if self._delay > _RETRY_FIRST:
            log.warning("database: connected again")
        self._delay = _RETRY_FIRST

    def run(self, job: Callable[[], R]) -> R:
        """Run `job`, which uses this connection and may run twice: again on a new one if it was lost.

        Raises what it raises, as it is meant for clients, and ServiceUnavailable.
        """
        self.ensure()
        try:
            return job()
        except psycopg.Error as error:
            if not self.lost:
                raise translate_error(error) from None
            log.warning("database: %s; connecting again", summary(error))
        self.ensure()
        try:
            return job()
        except psycopg.Error as error:
            raise translate_error(error) from None

    def execute(self, sql: str, args: Sequence[Any] = ()) -> PostgresCursor:
        """Run a statement; in a pipeline, its answer or error may come with a later one."""
        statement = translate(sql)
        cursor = self.raw.execute(statement.text, args, binary=True)
        self.writes += statement.writes
        return PostgresCursor(self, cursor)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for every row of values, without waiting for an answer in a pipeline."""
        statement = translate(sql)
        self.writes += statement.writes
        if len(rows) == 1:
            self.raw.execute(statement.text, rows[0])
        else:
            self.raw.cursor().executemany(statement.text, rows)

    def stream(self, sql: str, args: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query inside a transaction, some hundred at a time."""
        with RawServerCursor(self.raw, "stream") as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(translate(sql).text, args, binary=True)
            yield from cursor

    def wait(self) -> None:
        """Wait until everything that was sent is answered. Raises the first error."""
        if self.pipeline is not None:
            self.pipeline.sync()

    def close(self) -> None:
        """Disconnect."""
        if self._raw is not None:
            with contextlib.suppress(psycopg.Error):
                self._raw.close()
            self._raw = None
