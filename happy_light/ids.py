"""Ids that the server makes (docs/protocol.md section 1.1)."""

from __future__ import annotations

import secrets
import threading
from typing import Final

from happy_light.clock import now_ms

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_COUNTER_MAX: Final = 36**4
_RANDOM_SIZE: Final = 12  # random characters of an id
_RANDOM_BUFFER: Final = 3_000  # bytes that are asked of the system at once


def base36(number: int, width: int) -> str:
    """Return `number` in base 36, lower case, padded with zeros to `width` characters."""
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


class IdGenerator:
    """Makes ids of the cuid form that ascend within this process, even within one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._counter = 0
        self._prefix = ""
        self._random = ""
        self._used = 0

    def new(self) -> str:
        """Return `c`, 8 characters of base-36 milliseconds, 4 of a counter and 12 random ones. Works on any thread."""
        with self._lock:
            self._counter += 1
            ms = now_ms()
            if ms > self._ms or self._counter == _COUNTER_MAX:
                # When the clock goes back, continue from the newest millisecond: ids must not descend.
                self._ms = max(ms, self._ms + 1)
                self._counter = 0
                self._prefix = "c" + base36(self._ms, 8)
            return self._prefix + base36(self._counter, 4) + self._next_random()

    def short(self) -> str:
        """Return 12 random characters, for an id that need not ascend. Works on any thread."""
        with self._lock:
            return self._next_random()

    def _next_random(self) -> str:
        self._used += _RANDOM_SIZE
        if self._used > len(self._random):
            # One system call for many ids: each call may switch threads in the middle of a transaction.
            self._random = secrets.token_hex(_RANDOM_BUFFER)
            self._used = _RANDOM_SIZE
        return self._random[self._used - _RANDOM_SIZE : self._used]


_generator: Final = IdGenerator()
new_id = _generator.new
short_id = _generator.short
