"""Reads of one connection. The reads that wait are run together and answered together.

Waking a thread and the event loop costs more than most queries; under load many reads share it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from happy_light.errors import ServiceUnavailable
from happy_light.store.engine import Reader
from happy_light.store.transaction import ReadTransaction

R = TypeVar("R")

BATCH_MAX = 4  # reads answered together: bounds how long the first waits for the last
WAITING_MAX = 10_000  # reads that may wait for one connection; more are refused
_Read = tuple[asyncio.Future[Any], Callable[[ReadTransaction], Any]]
_Result = tuple[asyncio.Future[Any], Any, Exception | None]


class ReadQueue:
    """The reads that wait for a connection."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Read] = deque()
        self._lock = threading.Lock()
        self._running = False

    def read(self, operation: Callable[[ReadTransaction], R]) -> asyncio.Future[R]:
        """Run `operation(tx)` on the connection's thread. Raises ServiceUnavailable when too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise ServiceUnavailable("Too many reads are waiting")
        future: asyncio.Future[R] = self._loop.create_future()
        with self._lock:
            self._waiting.append((future, operation))
            if self._running:
                return future
            self._running = True
        self._reader.submit(self._run)
        return future

    def _run(self) -> None:
        """Run batches until nothing waits; on the connection's thread."""
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
                if not batch:
                    self._running = False
                    return
            results: list[_Result] = []
            for future, operation in batch:
                try:
                    results.append((future, self._reader.read(operation), None))
                except Exception as error:
                    results.append((future, None, error))
            self._loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: list[_Result]) -> None:
    """Wake the callers that still wait; on the event loop."""
    for future, result, error in results:
        if future.done():  # cancelled
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
