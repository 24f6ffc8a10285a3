"""Timeouts of equal length for many items, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_STEPS = 50  # the timer runs at most this often within one timeout


class Timeouts(Generic[T]):
    """Call `expire(item)` for every item that was not stopped within `seconds`.

    All items wait equally long, so they expire in the order in which they were started. An item expires at most
    a fiftieth of `seconds` too late.
    """

    def __init__(self, seconds: float, expire: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._expire = expire
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def start(self, item: T) -> None:
        """Let the item wait from now on; if it waits already, let it wait anew."""
        loop = asyncio.get_running_loop()
        self._due.pop(item, None)
        self._due[item] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._run)

    def stop(self, item: T) -> bool:
        """Let the item wait no longer; return whether it did."""
        return self._due.pop(item, None) is not None

    def oldest(self) -> T:
        """Return the item that expires first."""
        return next(iter(self._due))

    def clear(self) -> None:
        """Stop everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        expired: list[T] = []
        wait: float | None = None
        for item, due in self._due.items():
            if due > now:
                wait = max(due - now, self.seconds / _STEPS)
                break
            expired.append(item)
        for item in expired:
            if self._due.pop(item, None) is not None:  # else an earlier one has stopped it
                self._expire(item)
        if wait is None and self._due:  # started by what has expired
            wait = self.seconds
        if wait is not None and self._timer is None:
            self._timer = loop.call_later(wait, self._run)
