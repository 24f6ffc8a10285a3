"""Connection-state recovery: a client that was cut off comes back as the same socket (docs/protocol.md, section 21).

Each connection has a second, secret id, its pid. Whoever presents the pid within the window, with the same account,
kind and id, continues it, if every event since the offset of the last one received is still kept.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from happy_light.clients.client import Client, ClientKind, DisconnectReason, receives
from happy_light.clients.packets import Packet
from happy_light.clients.recent_events import RecentEvents
from happy_light.clients.timeouts import Timeouts

ENDED_MAX: Final = 20_000  # ended connections that are kept; the oldest is forgotten first

CUT_OFF: Final = ("transport close", "transport error", "ping timeout")


class _Connection(msgspec.Struct, eq=False):
    pid: str
    account_id: str
    kind: ClientKind
    id: str
    client: Client | None
    """None once it has ended."""
    sid: str
    subscriptions: frozenset[str]
    """The sessions that a machine was subscribed to when it ended."""


class Recovered(msgspec.Struct, frozen=True):
    """What an ended connection continues with: its ids, its subscriptions, and the packets that it missed."""

    sid: str
    pid: str
    subscriptions: frozenset[str]
    missed: list[Packet]


class Recovery:
    """The connections of this process that can be continued. `window` is how long after their end, in s; 0: never."""

    is_shared = False
    """Whether connections of other processes can be continued too; `prepare` finds them then, not `continue_`."""

    def __init__(self, window: float) -> None:
        self.enabled = window > 0
        self.events: RecentEvents = RecentEvents()
        self._connections: dict[str, _Connection] = {}
        self._ended: Timeouts[_Connection] = Timeouts(window, self._forget)

    def begin(self, client: Client, recovered: Recovered | None) -> str | None:
        """Return the pid of a new client; None where recovery is off."""
        if not self.enabled:
            return None
        pid = secrets.token_urlsafe(18) if recovered is None else recovered.pid
        self.events.hold(client.account_id)
        client.pid = pid
        self._connections[pid] = _Connection(
            pid, client.account_id, client.kind, client.id, client, client.sid, frozenset()
        )
        return pid

    def end(self, client: Client, reason: DisconnectReason) -> None:
        """Keep a client that was cut off for the window; forget one that left or was sent away."""
        connection = self._connections.get(client.pid)
        if connection is None:
            return
        connection.client, connection.subscriptions = None, client.subscriptions
        if reason not in CUT_OFF:
            self._forget(connection)
            return
        self._ended.start(connection)
        if len(self._ended) > ENDED_MAX:
            self._forget(self._ended.oldest())

    async def prepare(self, pid: str, offset: str, account_id: str, kind: ClientKind, id: str) -> Recovered | None:
        """Return what a connection that has ended in any process continues with; None if it cannot."""
        return None

    def find(self, pid: str, account_id: str, kind: ClientKind, id: str) -> Client | None:
        """Return the client that still has this pid, which has to be closed before the pid can be continued."""
        connection = self._connections.get(pid)
        return connection.client if connection is not None and _fits(connection, account_id, kind, id) else None

    def continue_(self, pid: str, offset: str, account_id: str, kind: ClientKind, id: str) -> Recovered | None:
        """Return what the ended connection of this pid continues with, and forget it; None if it cannot."""
        connection = self._connections.get(pid)
        if connection is None or connection.client is not None or not _fits(connection, account_id, kind, id):
            return None
        events = self.events.since(account_id, offset)
        if events is None:
            self._forget(connection)
            return None
        missed = [
            event.packet
            for event in events
            if event.skip != connection.sid and receives(event.audience, kind, id, connection.subscriptions)
        ]
        return Recovered(connection.sid, pid, connection.subscriptions, missed)

    def forget_account(self, account_id: str) -> None:
        """Forget the ended connections of an account that was signed out or deleted."""
        for connection in [each for each in self._connections.values() if each.account_id == account_id]:
            if connection.client is None:
                self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        self._ended.stop(connection)
        if self._connections.pop(connection.pid, None) is not None:
            self.events.release(connection.account_id)


def _fits(connection: _Connection, account_id: str, kind: ClientKind, id: str) -> bool:
    return (connection.account_id, connection.kind, connection.id) == (account_id, kind, id)
