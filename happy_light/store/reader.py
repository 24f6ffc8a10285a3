"""A reading connection. What waits for it is read in one go and answered in one, as the writer does.

The way to the thread and back costs more than most queries; under load many reads share it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import aiosqlite

from happy_light.errors import ServiceUnavailable
from happy_light.store.thread import ship
from happy_light.store.tx import ReadTransaction

R = TypeVar("R")

_TOGETHER = 4  # reads whose answers travel together: bounds how long the first waits for the last
WAITING_MAX = 10_000  # reads that may wait for one connection; more are refused, since memory is not endless
_Read = tuple[asyncio.Future[Any], Callable[[ReadTransaction], Any]]
_Done = tuple[asyncio.Future[Any], Any, Exception | None]


class Reader:
    """A connection and the reads that wait for it."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._rx = ReadTransaction(connection._conn)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Read] = deque()
        self._lock = threading.Lock()
        self._busy = False

    def read(self, operation: Callable[[ReadTransaction], R]) -> asyncio.Future[R]:
        """Runs `operation(rx)` on the connection's thread. Raises Unavailable when too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise ServiceUnavailable("Too many reads are waiting")
        future: asyncio.Future[R] = self._loop.create_future()
        with self._lock:
            self._waiting.append((future, operation))
            if self._busy:
                return future
            self._busy = True
        ship(self._connection, self._drain)
        return future

    async def close(self) -> None:
        """After what waits was read."""
        await self._connection.close()

    def _drain(self) -> None:
        """On the thread: reads until nothing waits."""
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _TOGETHER))]
                if not batch:
                    self._busy = False
                    return
            done: list[_Done] = []
            for future, operation in batch:
                try:
                    done.append((future, operation(self._rx), None))
                except Exception as error:
                    done.append((future, None, error))
            self._loop.call_soon_threadsafe(_settle, done)


def _settle(done: list[_Done]) -> None:
    """On the event loop."""
    for future, result, error in done:
        if future.done():  # its caller went away
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
