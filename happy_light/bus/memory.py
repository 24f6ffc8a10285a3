"""The bus of a single process: events reach their subscribers in the order in which they are published."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from happy_light.bus.events import Event


class Bus:
    """Hands events to its subscribers, in the order in which they were published."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, deliver: Callable[[Event], None]) -> None:
        """`deliver` must not wait and must not raise."""
        self._subscribers.append(deliver)

    def publish(self, events: Iterable[Event]) -> None:
        """Only on the event loop's thread."""
        for event in events:
            for deliver in self._subscribers:
                deliver(event)
