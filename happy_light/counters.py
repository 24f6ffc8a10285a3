"""What the server counts about itself: plain numbers, cheap to add to and rendered only when asked."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Upper bounds (s) of the buckets that durations are sorted into; those of the original server."""

CLIENTS: Final = frozenset(
    ("cli-coding-session", "cli-daemon", "cli-control-plane", "ios", "android", "web", "desktop")
)  # fmt: skip
"""What `X-Happy-Client` may name; the header is the client's to choose, so others count as one."""


class Timing:
    """How often something happened and how long it took. Written by one thread only."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """It happened once more."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        """How often it happened."""
        return sum(self.buckets)


class Counters:
    """The numbers of one server since its start. Only for the event loop's thread."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: dict[tuple[str, str, int, str], Timing] = {}
        """By (method, path of the route, status, client type): as many as there are such pairs, no more."""
        self.events: dict[str, int] = {}
        """Socket events by name; those that nobody handles are counted as one."""
        self.calls: dict[str, int] = {}
        """RPC calls by how they ended."""

    def request(self, method: str, route: str, status: int, client: str | None, seconds: float) -> None:
        """A request was answered. `client` is the header X-Happy-Client."""
        key = (method, route, status, client_type(client))
        timing = self.requests.get(key)
        if timing is None:
            timing = self.requests[key] = Timing()
        timing.add(seconds)

    def event(self, name: str) -> None:
        """A socket sent an event."""
        self.events[name] = self.events.get(name, 0) + 1

    def call(self, ending: str) -> None:
        """An RPC call ended."""
        self.calls[ending] = self.calls.get(ending, 0) + 1


def client_type(client: str | None) -> str:
    """The first part of `<type>/<version>`, if it is one that we know."""
    if not client:
        return "unknown"
    kind = client.partition("/")[0].lower()
    return kind if kind in CLIENTS else "other"
