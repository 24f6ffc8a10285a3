"""When devices were last seen: collected in memory, and written now and then instead of with every request."""

from __future__ import annotations

import time
from typing import Final

from happy_light.auth.devices import UNKNOWN, client_name, store_seen
from happy_light.auth.tokens import Tokens
from happy_light.clients import ClientDirectory
from happy_light.store import Database

WRITE_INTERVAL: Final = 600.0  # s between two writes for one device, unless its client has a new name
FLUSH_INTERVAL: Final = 60.0  # s between two flushes
_WRITE_MAX: Final = 200  # devices in one write, which locks the rows of their accounts

Key = tuple[str, str]
"""An account and its device."""


class DeviceActivity:
    """The devices that were seen since the last flush: by a request, or because they have a socket."""

    def __init__(self, database: Database, tokens: Tokens, clients: ClientDirectory) -> None:
        self._database = database
        self._tokens = tokens
        self._clients = clients
        self._written: dict[Key, tuple[float, str | None]] = {}
        """When each was last written (monotonic s), with which name of its client."""
        self._unwritten: dict[Key, str | None] = {}
        """What a flush could not write."""

    async def flush(self, everything: bool = False) -> None:
        """Write the devices that are due, or all that were seen. Raises ServiceUnavailable."""
        now = time.monotonic()
        seen = self._unwritten | dict.fromkeys(self._tokens.take_used() - self._unwritten.keys())
        for client in self._clients.local:
            key = (client.account_id, client.device)
            name = client_name(client.happy_client)
            seen[key] = seen.get(key) if client.device == UNKNOWN or name is None else name
        self._written = {key: known for key, known in self._written.items() if now - known[0] < WRITE_INTERVAL}
        due = [(*key, name) for key, name in seen.items() if everything or self._is_due(key, name)]
        self._unwritten = {(account_id, id): name for account_id, id, name in due}
        for start in range(0, len(due), _WRITE_MAX):
            part = due[start : start + _WRITE_MAX]
            await self._database.write_for({each[0] for each in part}, store_seen, part)
            for account_id, id, name in part:
                self._written[account_id, id] = now, name
                self._unwritten.pop((account_id, id), None)

    def _is_due(self, key: Key, name: str | None) -> bool:
        known = self._written.get(key)
        return known is None or (name is not None and name != known[1])
