"""The parser of HTTP/1.1 below Hypercorn: over httptools, in C, or h11 where httptools cannot be imported."""

from __future__ import annotations

from typing import Any

import h11

events: Any
"""The module with Connection, and with the events that may be sent: Response, Data, EndOfMessage."""
try:
    from happy_light.stack import httptools_connection as events
except ImportError:
    events = h11


class EndedConnection:
    """In the place of the parser of a connection that has ended: nothing comes, and what is sent is dropped."""

    our_state = their_state = None
    they_are_waiting_for_100_continue = False

    def receive_data(self, data: bytes) -> None:
        """Drop it."""

    def next_event(self) -> type[h11.NEED_DATA]:
        """Return NEED_DATA."""
        return h11.NEED_DATA

    def send(self, event: object) -> bytes:
        """Return no bytes."""
        return b""
