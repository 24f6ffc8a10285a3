"""Threads for requests that may hang: a process that ends does not wait for them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Busy(Exception):
    """Too many jobs run or wait already."""


class DaemonThreads:
    """`count` threads that share a queue of jobs; at most `jobs_max` run or wait at a time."""

    def __init__(self, name: str, count: int, jobs_max: int) -> None:
        self._name, self._count, self._jobs_max = name, count, jobs_max
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs = 0
        self._started = False

    async def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Call `function` on a thread and return what it returns. Raises Busy, and what it raises."""
        if self._jobs >= self._jobs_max:
            raise Busy
        if not self._started:
            self._started = True
            for _ in range(self._count):
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        future: Future[R] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments, **named))
                except BaseException as error:
                    future.set_exception(error)

        self._jobs += 1
        self._queue.put(job)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._jobs -= 1

    def stop(self) -> None:
        """End the threads after what they do now and what waits."""
        for _ in range(self._count if self._started else 0):
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
            del job  # with what it returned
