"""Statements that are sent without waiting for each answer: libpq's pipeline mode, for one connection and thread.

psycopg has a pipeline of its own, which takes several times as much Python for each statement; a group of writes has
hundreds. What is used here is its documented layer below that: `psycopg.pq`, and its adapters for values.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result

_PREPARED_MAX: Final = 500
_FAILED: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED)


class Answer:
    """What a statement returned, or will return."""

    __slots__ = ("_pipeline", "_position", "result")

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._position = 0
        self.result: pq.abc.PGresult | None = None
        """None until it has come."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed; waits for the answer."""
        return self._wait().command_tuples or 0

    @property
    def description(self) -> list[tuple[str]]:
        """The columns: a tuple with the name of each; waits for the answer."""
        result = self._wait()
        return [((result.fname(column) or b"").decode(),) for column in range(result.nfields)]

    @property
    def status(self) -> str | None:
        """PostgreSQL's word for what was done, if the answer has come."""
        return None if self.result is None or not self.result.command_status else self.result.command_status.decode()

    def fetchone(self) -> Any:
        """Return the next row or None; waits for the answer."""
        result = self._wait()
        if self._position == result.ntuples:
            return None
        self._position += 1
        return self._pipeline.rows(result, self._position - 1, self._position)[0]

    def fetchall(self) -> list[Any]:
        """Return the rows that are left; waits for the answer."""
        result = self._wait()
        first, self._position = self._position, result.ntuples
        return self._pipeline.rows(result, first, result.ntuples)

    def _wait(self) -> pq.abc.PGresult:
        if self.result is None or self.result.status in _FAILED:
            self._pipeline.receive()
        assert self.result is not None
        return self.result


class _Preparation(Answer):
    """The answer to the preparation of a statement with this key."""

    __slots__ = ("key",)

    def __init__(self, pipeline: Pipeline, key: tuple[bytes, tuple[int, ...]]) -> None:
        super().__init__(pipeline)
        self.key = key


class Pipeline:
    """The statements on their way. `enter`, then `send` and the answers' methods, then `leave`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._libpq = connection.pgconn
        self._values = Transformer(connection)
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        """Prepared statements, by text and types of the values."""
        self._prepared = 0
        self._coming: deque[Answer] = deque()
        self._error: psycopg.Error | None = None

    def enter(self) -> None:
        """Begin; nothing may be under way on the connection."""
        self._coming.clear()
        self._error = None
        self._libpq.enter_pipeline_mode()

    def send(self, text: bytes, args: Sequence[Any]) -> Answer:
        """Send a statement with `$1`, `$2`, … Raises psycopg.DataError for a value that cannot be sent."""
        values = self._values.dump_sequence(args, [PyFormat.AUTO] * len(args))
        key = text, tuple(self._values.types or ())
        name = self._names.get(key)
        answer = Answer(self)
        if name is None and len(self._names) == _PREPARED_MAX:
            self._libpq.send_query_params(text, values, key[1], self._values.formats, pq.Format.BINARY)
        else:
            if name is None:
                self._prepared += 1
                name = self._names[key] = b"happy_%d" % self._prepared
                self._libpq.send_prepare(name, text, key[1])
                self._coming.append(_Preparation(self, key))
            self._libpq.send_query_prepared(name, values, self._values.formats, pq.Format.BINARY)
        self._coming.append(answer)
        return answer

    def receive(self) -> None:
        """Wait for everything that was sent. Raises the first error that there was since `enter`."""
        self._libpq.send_flush_request()
        self._receive_all()

    def leave(self) -> None:
        """Wait for everything that was sent, and end. Raises the first error that there was since `enter`."""
        self._libpq.pipeline_sync()
        self._coming.append(Answer(self))
        try:
            self._receive_all()
        finally:
            if not self._coming:
                self._libpq.exit_pipeline_mode()

    def query(self, text: bytes, args: Sequence[Any]) -> Answer:
        """Run one statement outside a pipeline: one call of libpq, and less work than a pipeline of one statement.

        Raises psycopg.Error.
        """
        # Any: `exec_prepared` takes None, too, which its type does not say.
        values: Any = self._values.dump_sequence(args, [PyFormat.AUTO] * len(args))
        key = text, tuple(self._values.types or ())
        name, formats = self._names.get(key), self._values.formats
        if name is None and len(self._names) < _PREPARED_MAX:
            self._prepared += 1
            name = b"happy_%d" % self._prepared
            self._require_success(self._libpq.prepare(name, text, key[1]))
            self._names[key] = name
        if name is None:
            result = self._libpq.exec_params(text, values, key[1], formats, pq.Format.BINARY)
        else:
            result = self._libpq.exec_prepared(name, values, formats, pq.Format.BINARY)
        self._require_success(result)
        answer = Answer(self)
        answer.result = result
        return answer

    def _require_success(self, result: pq.abc.PGresult) -> None:
        if result.status not in _FAILED:
            return
        if self._libpq.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(result.get_error_message())
        raise error_from_result(result, encoding="utf-8")

    @property
    def failed(self) -> bool:
        """Whether a statement is known to have failed."""
        return self._error is not None

    def rows(self, result: pq.abc.PGresult, first: int, end: int) -> list[tuple[Any, ...]]:
        """Return some rows of a result."""
        self._values.set_pgresult(result)
        return self._values.load_rows(first, end, tuple)

    def _receive_all(self) -> None:
        while self._libpq.flush():
            self._poll(select.POLLIN | select.POLLOUT)
        while self._coming:
            result = self._next_result()
            if result is not None:
                self._take(self._coming.popleft(), result)
        if self._error is not None:
            raise self._error

    def _next_result(self) -> pq.abc.PGresult | None:
        """Wait for the next result and return it; None behind the last one of a statement."""
        while self._libpq.is_busy():
            self._poll(select.POLLIN)
        return self._libpq.get_result()

    def _poll(self, events: int) -> None:
        """Wait until the socket can be read (or written), and read what is there. Raises OperationalError."""
        poll = select.poll()
        poll.register(self._libpq.socket, events)
        for _, ready in poll.poll():
            if ready & ~select.POLLOUT:
                self._libpq.consume_input()

    def _take(self, answer: Answer, result: pq.abc.PGresult) -> None:
        answer.result = result
        if result.status not in _FAILED:
            return
        if isinstance(answer, _Preparation):
            self._names.pop(answer.key, None)
        if self._error is None:
            self._error = (
                error_from_result(result, encoding="utf-8")
                if result.status == pq.ExecStatus.FATAL_ERROR
                else psycopg.errors.PipelineAborted("pipeline aborted")
            )
