"""Who answers which RPC method of an account, and who waits for somebody who does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from happy_light.clients import Client
from happy_light.config import Settings

APPEAR = 15.0  # s that a caller waits for a target to register (a daemon that reconnects)
SETTLE = 0.05  # s that a target which just (re)appeared gets to register the rest of its methods

Key = tuple[str, str]
"""(account id, method)"""


class RpcRegistry:
    """Who answers which method, and who waits for somebody who does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._methods: dict[Key, dict[Client, None]] = {}
        self._of: dict[Client, set[str]] = {}
        self._waiting: dict[Key, list[Callable[[], None]]] = {}
        self._calls: dict[str, int] = {}

    def register(self, client: Client, method: str) -> bool:
        """From now on `peer` answers, before older ones; whoever waited is woken. False: too many."""
        mine = self._of.setdefault(client, set())
        if 0 < self._settings.account_methods <= len(mine) and method not in mine:
            return False
        mine.add(method)
        key = (client.account_id, method)
        clients = self._methods.setdefault(key, {})
        clients.pop(client, None)
        clients[client] = None
        for appeared in self._waiting.pop(key, ()):
            appeared()
        return True

    def unregister(self, client: Client, method: str) -> None:
        """`peer` no longer answers; others of the same method stay."""
        self._of.get(client, set()).discard(method)
        key = (client.account_id, method)
        clients = self._methods.get(key)
        if clients is not None:
            clients.pop(client, None)
            if not clients:
                del self._methods[key]

    def gone(self, client: Client) -> None:
        """Its socket ended."""
        for method in tuple(self._of.get(client, ())):
            self.unregister(client, method)
        self._of.pop(client, None)

    def target(self, caller: Client, method: str) -> Client | None:
        """The newest living socket that answers; the caller itself only if nobody else does."""
        clients = self._methods.get((caller.account_id, method), {})
        for client in reversed(clients):
            if client is not caller and not client.gone:
                return client
        return caller if caller in clients else None

    def await_target(self, caller: Client, method: str, found: Callable[[Client | None], None]) -> None:
        """Calls `found` with whoever registers the method in time, or with None when nobody does."""
        key = (caller.account_id, method)
        loop = asyncio.get_running_loop()
        over = False

        def wait() -> None:
            self._waiting.setdefault(key, []).append(appeared)

        def end(target: Client | None) -> None:
            nonlocal over
            over = True
            timer.cancel()
            found(target)

        def give_up() -> None:
            waiting = self._waiting.get(key, [])
            if appeared in waiting:
                waiting.remove(appeared)
                if not waiting:
                    del self._waiting[key]
            end(self.target(caller, method))

        def appeared() -> None:
            # A target that reconnects registers all its methods in one go: let it finish.
            loop.call_later(SETTLE, settled)

        def settled() -> None:
            target = None if over else self.target(caller, method)
            if target is not None:
                end(target)
            elif not over:  # gone again already; it may come back
                wait()

        timer = loop.call_later(APPEAR, give_up)
        wait()

    def begin(self, account_id: str) -> bool:
        """Counts a call; False if the account has too many under way."""
        count = self._calls.get(account_id, 0)
        if 0 < self._settings.account_calls <= count:
            return False
        self._calls[account_id] = count + 1
        return True

    def end(self, account_id: str) -> None:
        """The call is over."""
        count = self._calls[account_id] - 1
        if count:
            self._calls[account_id] = count
        else:
            del self._calls[account_id]
