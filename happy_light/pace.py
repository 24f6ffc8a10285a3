"""How slowly a request may arrive, and an answer may be read, before its connection is given up."""

from __future__ import annotations

import asyncio
from typing import Final

PERIOD: Final = 30.0  # s in which PERIOD_BYTES must move, or the rest
PERIOD_BYTES: Final = 64 * 1024
LARGE: Final = 1024 * 1024  # bytes that must move in START_MAX at first, and in LARGE_PERIOD from then on
START_MAX: Final = 120.0  # s
LARGE_PERIOD: Final = 60.0  # s
TOTAL_MAX: Final = 1800.0  # s that the whole of it may take


class Pace:
    """The deadline of one body or answer, which moves as its bytes do. Times are those of the event loop, in s."""

    __slots__ = ("_large_at", "_large_until", "_moved_at", "_until", "deadline")

    def __init__(self) -> None:
        now = _now()
        self._moved_at = self._large_at = 0  # bytes
        self._large_until = now + START_MAX
        self._until = now + TOTAL_MAX
        self.deadline = now + PERIOD

    def extend(self, size: int) -> bool:
        """Move the deadline if enough bytes have moved; `size` is how many did so far. Return whether it moved."""
        if size - self._moved_at < PERIOD_BYTES:
            return False
        now = _now()
        self._moved_at = size
        if size - self._large_at >= LARGE:
            self._large_at, self._large_until = size, now + LARGE_PERIOD
        self.deadline = min(now + PERIOD, self._large_until, self._until)
        return True

    def postpone(self, seconds: float) -> None:
        """Do not count so many seconds, in which the other side was not waited for."""
        self._large_until += seconds
        self._until += seconds
        self.deadline += seconds

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return _now() >= self.deadline


def _now() -> float:
    return asyncio.get_running_loop().time()
