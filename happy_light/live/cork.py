"""One write for each websocket at the end of a step of the event loop, instead of one for each packet.

A group of writes that was committed together is published in one step, and its acks are sent in the next: for a
device that hears everything these are many packets, and the kernel's send costs more than making them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Cork:
    """Whether packets are held back, and who holds some. Used on the event loop's thread only."""

    __slots__ = ("_flushes", "holds")

    def __init__(self) -> None:
        self.holds = False
        """Whether packets that are sent now are to be held until the next step."""
        self._flushes: list[Callable[[], None]] = []

    def hold(self) -> None:
        """Hold packets from now on, until the event loop has run what is ready."""
        if not self.holds:
            self.holds = True
            asyncio.get_running_loop().call_soon(self._release)

    def add(self, flush: Callable[[], None]) -> None:
        """Call `flush` when packets are held no longer."""
        self._flushes.append(flush)

    def _release(self) -> None:
        self.holds = False
        flushes, self._flushes = self._flushes, []
        for flush in flushes:
            flush()
