"""Counts of requests, socket events and calls: plain numbers, formatted only when metrics are asked for."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from typing import Final

BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Upper bounds (s) of the buckets of durations; those of the original server."""

STEP: Final = 10  # s between two samples of the history
SAMPLES: Final = 360  # samples in it: an hour

CLIENTS: Final = frozenset(
    ("cli-coding-session", "cli-daemon", "cli-control-plane", "ios", "android", "web", "desktop")
)  # fmt: skip
"""Types of clients in the header X-Happy-Client. Clients may send anything, so all others are counted together."""


class Timing:
    """A histogram of durations. Only one thread may change it."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one more duration."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.buckets)


class Counters:
    """The counts of one server since its start. Only the thread of the event loop may change them."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: dict[tuple[str, str, int, str], Timing] = {}
        """Durations of requests by (method, path of the route, status, client type), a bounded number of keys."""
        self.events: dict[str, int] = {}
        """Socket events by name; those without a handler are counted together as `unknown`."""
        self.calls: dict[str, int] = {}
        """RPC calls by their outcome."""
        self.messages = 0
        """Messages that clients sent."""
        self.history: deque[tuple[int, int]] = deque(maxlen=SAMPLES)
        """Messages and calls in each of the last steps, the newest last."""
        self._sampled = (0, 0)

    def request(self, method: str, route: str, status: int, client: str | None, seconds: float) -> None:
        """Count a request that was answered. `client` is the header X-Happy-Client."""
        key = (method, route, status, client_type(client))
        timing = self.requests.get(key)
        if timing is None:
            timing = self.requests[key] = Timing()
        timing.add(seconds)

    def event(self, name: str) -> None:
        """Count an event that a socket sent."""
        self.events[name] = self.events.get(name, 0) + 1

    def call(self, outcome: str) -> None:
        """Count an RPC call that ended."""
        self.calls[outcome] = self.calls.get(outcome, 0) + 1

    def sample(self) -> None:
        """Add what has happened since the last call to the history; to be called every STEP."""
        now = (self.messages, sum(self.calls.values()))
        self.history.append((now[0] - self._sampled[0], now[1] - self._sampled[1]))
        self._sampled = now


def client_type(client: str | None) -> str:
    """Return the type in `<type>/<version>` if it is a known one, else `other`; `unknown` without a header."""
    if not client:
        return "unknown"
    kind = client.partition("/")[0].lower()
    return kind if kind in CLIENTS else "other"
