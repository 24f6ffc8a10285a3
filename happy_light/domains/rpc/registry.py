"""Which sockets answer which methods, who waits for a method, and how many calls an account has under way."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from happy_light.bus import Bus, MethodsElsewhere
from happy_light.clients import ClientDirectory
from happy_light.config import Settings

APPEAR: Final = 15.0  # s that a caller waits for a target to register (a daemon that reconnects)
SETTLE: Final = 0.05  # s that a target which has just registered gets to register the rest of its methods

Key = tuple[str, str]
"""(account id, method)"""


class RpcRegistry:
    """The methods of all accounts, also those that sockets of other processes answer.

    Sockets are known by their ids; those that are gone answer nothing.
    """

    def __init__(self, settings: Settings, clients: ClientDirectory, bus: Bus) -> None:
        self.appear = APPEAR
        self._settings = settings
        self._clients = clients
        self._sockets: dict[Key, dict[str, float]] = {}  # s since the epoch of the registration; the newest last
        self._methods: dict[str, set[Key]] = {}  # by socket
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}
        self._calls: dict[str, int] = {}
        clients.methods_of = self._methods_of
        bus.subscribe(MethodsElsewhere, self._methods_changed)

    def register(self, account_id: str, sid: str, method: str) -> bool:
        """Let the socket answer the method, before older ones, and wake who waits for it.

        Return False if the socket has as many methods as it may.
        """
        key = (account_id, method)
        methods = self._methods.setdefault(sid, set())
        if 0 < self._settings.account_methods <= len(methods) and key not in methods:
            return False
        self._add(key, sid, time.time())
        return True

    def _add(self, key: Key, sid: str, at: float) -> None:
        self._methods.setdefault(sid, set()).add(key)
        sockets = self._sockets.setdefault(key, {})
        sockets.pop(sid, None)
        newer = [(other, when) for other, when in sockets.items() if when > at]
        sockets[sid] = at
        for other, when in newer:  # of other processes; an older registration was announced late
            del sockets[other]
            sockets[other] = when
        self._wake(key)

    def _wake(self, key: Key) -> None:
        """Let those who wait for the method look again who answers it."""
        for appeared in self._waiting.pop(key, ()):
            if not appeared.done():
                appeared.set_result(None)

    def _methods_of(self, sid: str) -> dict[str, float]:
        """Return the methods of a socket and the times of their registrations."""
        return {key[1]: self._sockets[key][sid] for key in self._methods.get(sid, ())}

    def _methods_changed(self, message: MethodsElsewhere) -> None:
        """Take the methods that a socket of another process answers now."""
        account_id, sid = message.account_id, message.sid
        for _, method in tuple(self._methods.get(sid, ())):
            if method not in message.methods:
                self.unregister(account_id, sid, method)
        for method, at in message.methods.items():
            key = (account_id, method)
            if self._sockets.get(key, {}).get(sid) != at:
                self._add(key, sid, at)
            else:
                self._wake(key)
        if not message.methods:
            self._methods.pop(sid, None)

    def unregister(self, account_id: str, sid: str, method: str) -> None:
        """Let the socket no longer answer the method; others that do still do."""
        key = (account_id, method)
        self._methods.get(sid, set()).discard(key)
        sockets = self._sockets.get(key)
        if sockets is not None:
            sockets.pop(sid, None)
            if not sockets:
                del self._sockets[key]

    def forget(self, sid: str) -> None:
        """Unregister every method of a socket that is gone."""
        for account_id, method in tuple(self._methods.get(sid, ())):
            self.unregister(account_id, sid, method)
        self._methods.pop(sid, None)

    def target(self, account_id: str, method: str, caller: str) -> str | None:
        """Return the newest connected socket that answers the method; the caller only if no other does."""
        sockets = self._sockets.get((account_id, method))
        if sockets is None:
            return None
        for sid in reversed(sockets):
            if sid != caller and self._clients.can_call(sid):
                return sid
        return caller if caller in sockets else None

    async def wait_for_target(self, account_id: str, method: str, caller: str) -> str | None:
        """Return the socket that answers the method, or registers it within `appear` s; None if none does."""
        # The caller may have looked before this began to run; from here on nothing is awaited before the wait.
        target = self.target(account_id, method, caller)
        if target is not None:
            return target
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.appear
        while await self._registration((account_id, method), deadline):
            # A target that reconnects registers all its methods in one go: let it finish.
            await asyncio.sleep(min(SETTLE, max(0.0, deadline - loop.time())))
            target = self.target(account_id, method, caller)
            if target is not None:
                return target
        return self.target(account_id, method, caller)

    async def _registration(self, key: Key, deadline: float) -> bool:
        """Wait until the method is registered; return False at the deadline (loop time)."""
        appeared = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(appeared)
        try:
            async with asyncio.timeout_at(deadline):
                await appeared
            return True
        except TimeoutError:
            return False
        finally:
            waiting.discard(appeared)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way and nobody waits for a method."""
        return not self._calls and not self._waiting

    def begin_call(self, account_id: str) -> bool:
        """Count one more call under way; return False if the account has as many as it may."""
        count = self._calls.get(account_id, 0)
        if 0 < self._settings.account_calls <= count:
            return False
        self._calls[account_id] = count + 1
        return True

    def end_call(self, account_id: str) -> None:
        """Count one call less."""
        count = self._calls[account_id] - 1
        if count:
            self._calls[account_id] = count
        else:
            del self._calls[account_id]
