"""A progress bar on standard error, drawn only on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

_WIDTH: Final = 30
_EVERY: Final = 0.1  # s between two drawings


class Bar:
    """Called with (label, done, total; 0: not known); shows a percentage. `close` clears the line."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Draw, at most ten times a second."""
        now = time.monotonic()
        if not self._shown or (now - self._last < _EVERY and done != total):
            return
        self._last = now
        if total:
            filled = min(_WIDTH, done * _WIDTH // total)
            text = f"{what:<22} [{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * done // total:3d} %"
        else:
            text = f"{what:<22} {done:,}"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that draws a bar with the label `what`."""
    with contextlib.closing(Bar()) as drawn:
        yield lambda done, total: drawn(what, done, total)
