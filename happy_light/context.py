"""What every room of the house shares: settings, store, bus, keys, the connected sockets."""

from __future__ import annotations

from typing import TypeVar, cast

from happy_light.auth.keys import Keys
from happy_light.bus import Bus
from happy_light.config import Settings
from happy_light.counters import Counters
from happy_light.live.registry import ClientRegistry
from happy_light.store import Database

T = TypeVar("T")


class ServerContext:
    """One server's parts. Domains with a memory of their own keep it here (`house.get(Presence)`)."""

    def __init__(self, settings: Settings, database: Database, bus: Bus, keys: Keys) -> None:
        self.settings = settings
        self.database = database
        self.bus = bus
        self.keys = keys
        self.clients = ClientRegistry()
        self.counters = Counters()
        self.closing = False
        """Set when the server stops: sockets that end now end with it."""
        self._memories: dict[type, object] = {}

    def get(self, kind: type[T]) -> T:
        """The one instance of a domain's memory, made as `kind(house)` on first use."""
        memory = self._memories.get(kind)
        if memory is None:
            memory = self._memories[kind] = kind(self)  # type: ignore[call-arg]
        return cast("T", memory)
