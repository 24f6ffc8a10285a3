"""What domains may ask about connected clients, wherever these are connected; today all are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from happy_light.bus import Audience
from happy_light.clients.client import CallFailed, ClientKind, PendingCall
from happy_light.clients.recovery import Recovery
from happy_light.clients.registry import ClientRegistry
from happy_light.clients.timeouts import Timeouts

CALL_TIMEOUT: Final = 30.0  # s that a client may take to answer (docs/protocol.md, section 14)

T = TypeVar("T")


class ClientDirectory:
    """All clients of the server.

    `local` is the index of those that are connected to this process, `recovery` has its connections that can be
    continued; `recovery_window` is how long, in s (0: never).
    """

    def __init__(self, recovery_window: float) -> None:
        self.local = ClientRegistry()
        self.recovery = Recovery(recovery_window)
        self.call_timeouts: Timeouts[PendingCall] = Timeouts(CALL_TIMEOUT, PendingCall.expire)

    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine of the account has a socket."""
        return self.local.has_socket(account_id, kind, id)

    def is_connected(self, sid: str) -> bool:
        """Return whether the client with this socket id is connected."""
        return self.local.get(sid) is not None

    def count(self, account_id: str) -> int:
        """Return how many sockets an account has."""
        return self.local.count(account_id)

    def foreground(self, account_id: str) -> bool:
        """Return whether a user-scoped client of the account is in the foreground, so that no push is needed."""
        return any(client.app_state == "active" for client in self.local.audience(Audience(account_id)))

    def call(
        self, account_id: str, sid: str, event: str, data: Any, convert: Callable[[list[Any]], T]
    ) -> asyncio.Future[T]:
        """Send an event to one client of the account; return the future of `convert(arguments of its ack)`.

        The future raises CallFailed when the client is or goes away, or does not answer within 30 s.
        """
        client = self.local.get(sid)
        if client is None or client.account_id != account_id:
            gone: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            gone.set_exception(CallFailed("disconnected", "RPC target disconnected"))
            return gone
        return client.call(event, data, convert, self.call_timeouts)
