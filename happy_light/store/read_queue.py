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


class _Read:
    """A read that waits for its turn, and its outcome."""

    __slots__ = ("error", "future", "operation", "result")

    def __init__(self, operation: Callable[[ReadTransaction], Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None

    def tell(self) -> None:
        """Give the outcome to the caller, if it still waits, and let go of everything. Called on the event loop.

        An error's traceback leads to the frames here and so back to this object.
        """
        if not self.future.done():  # else cancelled
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.result)
        self.result = self.error = None
        del self.future, self.operation


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
            self._waiting.append(_Read(operation, future))
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
            for read in batch:
                try:
                    read.result = self._reader.read(read.operation)
                except Exception as error:
                    read.error = error
            self._loop.call_soon_threadsafe(_tell, batch)


def _tell(batch: list[_Read]) -> None:
    """Wake the callers that still wait; on the event loop."""
    for read in batch:
        read.tell()
