"""A connection to PostgreSQL, which is made again after it was lost. Used on one thread.

Attempts to connect follow each other at growing intervals; between them whoever asks is refused at once, so nothing
waits longer than one attempt takes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, TypeVar

import psycopg
from psycopg import RawCursor, RawServerCursor

from happy_light.errors import ServiceUnavailable
from happy_light.store.postgres.errors import UNAVAILABLE, summary
from happy_light.store.postgres.errors import translate as translate_error
from happy_light.store.postgres.pipeline import Answer, Pipeline
from happy_light.store.postgres.sql import ADAPTERS, batches, repeated, translate
from happy_light.store.transaction import Cursor

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


class _SentAheadError(BaseException):
    """Stops an operation at its first statement; not an Exception, which operations may catch."""


class PostgresConnection:
    """A connection as operations use it. In a pipeline, statements are sent without waiting for each answer."""

    def __init__(self, url: str, readonly: bool, **session: str) -> None:
        self._url = url
        self._readonly = readonly
        self._session = session
        self._raw: psycopg.Connection[Any] | None = None
        self._next_attempt = 0.0  # s of the monotonic clock
        self._delay = _RETRY_FIRST
        self._pipeline: Pipeline | None = None
        self._in_pipeline = False
        self._reading_ahead = False
        self._ahead: dict[tuple[str, tuple[Any, ...]], Answer] = {}
        """What was sent before the operation that asks for it, by SQL and values."""
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
        self._pipeline = Pipeline(self._raw)
        self._in_pipeline = False

    def ensure(self) -> None:
        """Connect if there is no connection. Raises ServiceUnavailable."""
        if not self.lost:
            return
        if time.monotonic() < self._next_attempt:
            raise ServiceUnavailable(UNAVAILABLE)
        try:
            self.connect()
        except psycopg.Error as error:
            if self._delay == _RETRY_FIRST:  # once, not with every attempt
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

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of the connection, which `ensure` has made."""
        assert self._pipeline is not None
        return self._pipeline

    def enter_pipeline(self) -> None:
        """Send statements without waiting for their answers from here on."""
        self.pipeline.enter()
        self._in_pipeline = True

    def leave_pipeline(self) -> None:
        """Wait for the answers that are missing. Raises the first error that there was in the pipeline."""
        if self._in_pipeline:
            self._in_pipeline = False
            self._ahead.clear()
            self.pipeline.leave()

    def execute(self, sql: str, args: Sequence[Any] = ()) -> Cursor:
        """Run a statement; in a pipeline, its answer or error may come with a later one."""
        statement = translate(sql)
        if not self._in_pipeline:
            self.writes += statement.writes
            return self.pipeline.query(statement.text, args)
        if self._reading_ahead:
            if not statement.writes:
                self._ahead[sql, tuple(args)] = self.pipeline.send(statement.text, args)
            raise _SentAheadError
        if self._ahead and (sent := self._ahead.pop((sql, tuple(args)), None)) is not None:
            return sent
        self.writes += statement.writes
        return self.pipeline.send(statement.text, args)

    def read_ahead(self, operations: Sequence[Callable[[], object]]) -> None:
        """Run each operation up to its first statement, and send that if it only reads.

        The answer is given to the next `execute` of the same statement, until this is called again.
        """
        self._ahead.clear()
        self._reading_ahead = True
        try:
            for operation in operations:
                # One that fails will fail again when it is run.
                with contextlib.suppress(_SentAheadError, Exception):
                    operation()
        finally:
            self._reading_ahead = False

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for every row of values, without waiting for an answer in a pipeline."""
        if self._reading_ahead:
            raise _SentAheadError
        statement = translate(sql)
        self.writes += statement.writes
        first = 0
        for count in batches(sql, len(rows)):
            args = rows[first] if count == 1 else tuple(chain.from_iterable(rows[first : first + count]))
            text = repeated(sql, count).text
            (self.pipeline.send if self._in_pipeline else self.pipeline.query)(text, args)
            first += count

    def stream(self, sql: str, args: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query inside a transaction, some hundred at a time."""
        with RawServerCursor(self.raw, "stream") as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(translate(sql).text, args, binary=True)
            yield from cursor

    def close(self) -> None:
        """Disconnect."""
        if self._raw is not None:
            with contextlib.suppress(psycopg.Error):
                self._raw.close()
            self._raw = None
