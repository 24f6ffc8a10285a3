"""The bus of a process: messages reach their subscribers in the order in which they are published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from happy_light.bus.events import BusMessage

log = logging.getLogger(__name__)

M = TypeVar("M")


class Bus:
    """Hand every message to the subscribers of its type. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._subscribers: dict[type, list[Callable[[Any], None]]] = {}

    def subscribe(self, kind: type[M], receive: Callable[[M], None]) -> None:
        """Call `receive` with every message of the type `kind`. It must not block."""
        self._subscribers.setdefault(kind, []).append(receive)

    def publish(self, *messages: BusMessage) -> None:
        """Deliver the messages in this order, before returning. A subscriber that raises is logged."""
        for message in messages:
            for receive in self._subscribers.get(type(message), ()):
                try:
                    receive(message)
                except Exception:
                    log.exception("a subscriber of %s failed", type(message).__name__)


class SharedBus(Bus):
    """The bus of one process of several: what is published goes through `share`, which tells the others.

    `share` passes on to `deliver` what the subscribers of this process are to hear, and when.
    """

    share: Callable[[Sequence[BusMessage]], None] | None = None

    def publish(self, *messages: BusMessage) -> None:
        """Deliver the messages here, and to the other processes."""
        if self.share is None:
            self.deliver(*messages)
        else:
            self.share(messages)

    def deliver(self, *messages: BusMessage) -> None:
        """Deliver the messages to the subscribers of this process, in this order, before returning."""
        super().publish(*messages)
