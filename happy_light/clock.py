"""The time of the server: that of the computer's clock, unless this is known to be behind.

Some computers start with a clock that is hours or years behind, until the network has told them the time. What the
database has is then newer than the clock, and times are counted from there until the clock has caught up.
"""

from __future__ import annotations

import time
from typing import Final

BEHIND_MAX: Final = 30 * 86_400_000  # ms; a database further ahead was rather written while its clock was wrong
EARLIEST: Final = 1_767_225_600_000  # ms since the epoch (2026-01-01); a clock that is before it is wrong
_TOLERANCE: Final = 60_000  # ms that a clock may be set back, without a word


class _Floor:
    """A time (ms) that had passed at some moment (monotonic ns)."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._since = time.monotonic_ns()

    def now(self) -> int:
        """Return the time that it must be at least."""
        return self._at + (time.monotonic_ns() - self._since) // 1_000_000


_floor: _Floor | None = None


def now_ms() -> int:
    """Return the milliseconds since the epoch."""
    now = time.time_ns() // 1_000_000
    return now if _floor is None else max(now, _floor.now())


def is_behind() -> bool:
    """Whether the computer's clock is known to be behind, so that `now_ms` is only the least that it can be."""
    return _floor is not None and time.time_ns() // 1_000_000 < _floor.now() - _TOLERANCE


def start_from(newest: int) -> int:
    """Let `now_ms` begin with `newest` (ms), the newest time of the database, if the clock is behind it.

    Return by how many ms the clock is behind, 0 if it is not. It is believed nevertheless if the database is ahead by
    over BEHIND_MAX, unless the clock is before EARLIEST: see `is_behind`.
    """
    global _floor
    _floor = None
    now = time.time_ns() // 1_000_000
    behind = newest - now
    if behind <= _TOLERANCE:
        return 0
    if behind <= BEHIND_MAX or now < EARLIEST:
        _floor = _Floor(newest)
    return behind


def believe_computer() -> None:
    """Undo `start_from`: the server of this process has ended."""
    global _floor
    _floor = None
