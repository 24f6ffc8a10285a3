"""What domains may ask about connected clients, in this process and in the others of the same server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar

from happy_light.bus import Audience
from happy_light.clients.client import CallFailed, Client, ClientKind, PendingCall
from happy_light.clients.recovery import Recovery
from happy_light.clients.registry import ClientRegistry
from happy_light.clients.timeouts import Timeouts

CALL_TIMEOUT: Final = 30.0  # s that a client may take to answer (docs/protocol.md, section 14)

T = TypeVar("T")


class OtherProcesses(Protocol):
    """The other processes of the server: the sockets that are there, and telling them of those that are here.

    What is known of an account's sockets is complete once the account is loaded.
    """

    def is_loaded(self, account_id: str) -> bool:
        """Return whether the account is loaded."""

    async def load(self, account_id: str) -> None:
        """Load the account. Raises ServiceUnavailable."""

    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine of the account has a socket there."""

    def can_call(self, sid: str) -> bool:
        """Return whether the socket is there and can be called now."""

    def count(self, account_id: str) -> int:
        """Return how many sockets of the account are there."""

    def foreground(self, account_id: str) -> bool:
        """Return whether a user-scoped socket there is in the foreground."""

    def call(
        self, account_id: str, sid: str, event: str, data: Any, convert: Callable[[list[Any]], T]
    ) -> asyncio.Future[T]:
        """Call a socket there; see ClientDirectory.call."""

    async def announce(self, client: Client) -> None:
        """Tell of a socket that has changed; return when it can be known there."""

    async def tell(self) -> None:
        """Return when what was published on the bus can be known there."""

    def entered(self, client: Client) -> None:
        """Tell of a socket that has connected or changed."""

    def left(self, client: Client) -> None:
        """Tell of a socket that is gone."""


class ClientDirectory:
    """All clients of the server.

    `local` is the index of those that are connected to this process, `others` are the other processes, if there can
    be any. `recovery` has the connections that can be continued; `recovery_window` is how long, in s (0: never).
    """

    def __init__(self, recovery_window: float) -> None:
        self.local = ClientRegistry()
        self.recovery = Recovery(recovery_window)
        self.others: OtherProcesses | None = None
        self.call_timeouts: Timeouts[PendingCall] = Timeouts(CALL_TIMEOUT, PendingCall.expire)
        self.methods_of: Callable[[str], Mapping[str, float]] = lambda sid: {}
        """Returns the RPC methods of a socket of this process, and when each was registered; set by their registry."""

    # ------------------------------------------------------------------------------------- questions
    def is_loaded(self, account_id: str) -> bool:
        """Return whether questions about the account can be answered at once; see `load`."""
        return self.others is None or self.others.is_loaded(account_id)

    async def load(self, account_id: str) -> None:
        """Learn of the account's clients in other processes. Raises ServiceUnavailable.

        It has happened for every account with a client in this process; others must be loaded before they are asked
        about.
        """
        if self.others is not None and not self.others.is_loaded(account_id):
            await self.others.load(account_id)

    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine of the account has a socket."""
        if self.local.has_socket(account_id, kind, id):
            return True
        return self.others is not None and self.others.has_socket(account_id, kind, id)

    def can_call(self, sid: str) -> bool:
        """Return whether the client with this socket id is connected and can be called."""
        return self.local.get(sid) is not None or (self.others is not None and self.others.can_call(sid))

    def count(self, account_id: str) -> int:
        """Return how many sockets an account has."""
        return self.local.count(account_id) + (0 if self.others is None else self.others.count(account_id))

    def foreground(self, account_id: str) -> bool:
        """Return whether a user-scoped client of the account is in the foreground, so that no push is needed."""
        if any(client.app_state == "active" for client in self.local.audience(Audience(account_id))):
            return True
        return self.others is not None and self.others.foreground(account_id)

    async def tell_others(self) -> None:
        """Return when other processes can know what was published on the bus."""
        if self.others is not None:
            await self.others.tell()

    # ----------------------------------------------------------------------------------------- calls
    def call(
        self, account_id: str, sid: str, event: str, data: Any, convert: Callable[[list[Any]], T]
    ) -> asyncio.Future[T]:
        """Send an event to one client of the account; return the future of `convert(arguments of its ack)`.

        The future raises CallFailed when the client is or goes away, or does not answer within 30 s.
        """
        if self.others is not None and self.local.get(sid) is None:
            return self.others.call(account_id, sid, event, data, convert)
        return self.call_local(account_id, sid, event, data, convert)

    def call_local(
        self, account_id: str, sid: str, event: str, data: Any, convert: Callable[[list[Any]], T]
    ) -> asyncio.Future[T]:
        """Do the same with a client of this process."""
        client = self.local.get(sid)
        if client is None or client.account_id != account_id:
            gone: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            gone.set_exception(CallFailed("disconnected", "RPC target disconnected"))
            return gone
        return client.call(event, data, convert, self.call_timeouts)

    # --------------------------------------------------------------------------------------- changes
    def enter(self, client: Client, subscriptions: Collection[str]) -> None:
        """Let a new client receive the events of its audiences, and of sessions that a machine has subscribed to."""
        self.local.add(client)
        if subscriptions:
            self.local.subscribe(client, subscriptions)
        if self.others is not None:
            self.others.entered(client)

    def leave(self, client: Client) -> None:
        """Forget a client that is gone."""
        self.local.remove(client)
        if self.others is not None:
            self.others.left(client)

    async def announce(self, client: Client) -> None:
        """Let every process know what a client of this one has become."""
        if self.others is not None:
            await self.others.announce(client)

    def after_change(self, client: Client, then: Callable[[], T]) -> T | Awaitable[T]:
        """Return `then()`, called once every process can know what a client of this one has become."""
        if self.others is None:
            return then()
        return self._announce_and(client, then)

    async def _announce_and(self, client: Client, then: Callable[[], T]) -> T:
        await self.announce(client)
        return then()
