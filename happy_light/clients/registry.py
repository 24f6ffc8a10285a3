"""An index of the clients that are connected to this process: by socket id, account, session and machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from happy_light.bus import Audience
from happy_light.clients.client import Client, ClientKind


class _Account:
    __slots__ = ("machine", "session", "subscribed", "user")

    def __init__(self) -> None:
        self.user: dict[Client, None] = {}
        self.session: dict[str, dict[Client, None]] = {}
        self.machine: dict[str, dict[Client, None]] = {}
        self.subscribed: dict[str, dict[Client, None]] = {}  # machines by the sessions that they are subscribed to


class ClientRegistry:
    """The clients of this process. No client is in two groups of one audience, so nobody receives an event twice."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._by_sid: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_sid.values())

    def add(self, client: Client) -> None:
        """Let the client receive what is sent to its audiences from now on."""
        self._by_sid[client.sid] = client
        account = self._accounts.get(client.account_id)
        if account is None:
            account = self._accounts[client.account_id] = _Account()
        if client.kind == "user":
            account.user[client] = None
        else:
            getattr(account, client.kind).setdefault(client.id, {})[client] = None

    def subscribe(self, client: Client, session_ids: Collection[str]) -> None:
        """Let a connected machine receive what the sockets of these sessions receive."""
        if client.sid in self._by_sid:
            groups = self._accounts[client.account_id].subscribed
            for id in session_ids:
                groups.setdefault(id, {})[client] = None
            client.subscriptions = client.subscriptions.union(session_ids)

    def unsubscribe(self, client: Client, session_ids: Collection[str]) -> None:
        """Undo `subscribe`; sessions that the machine is not subscribed to do not matter."""
        if client.sid in self._by_sid:
            _leave(self._accounts[client.account_id].subscribed, client, session_ids)
            client.subscriptions = client.subscriptions.difference(session_ids)

    def remove(self, client: Client) -> None:
        """Let the client receive nothing more."""
        if self._by_sid.pop(client.sid, None) is None:
            return
        account = self._accounts[client.account_id]
        if client.kind == "user":
            del account.user[client]
        else:
            _leave(getattr(account, client.kind), client, (client.id,))
            _leave(account.subscribed, client, client.subscriptions)
        if not (account.user or account.session or account.machine):
            del self._accounts[client.account_id]

    def get(self, sid: str) -> Client | None:
        """Return the client with this socket id."""
        return self._by_sid.get(sid)

    def audience(self, audience: Audience) -> list[Client]:
        """Return the clients of an audience, each once."""
        account = self._accounts.get(audience.account_id)
        if account is None:
            return []
        clients = list(account.user)
        if audience.scope == "session":
            clients += account.session.get(audience.id, ())
            clients += account.subscribed.get(audience.id, ())
        elif audience.scope == "machine":
            clients += account.machine.get(audience.id, ())
        return clients

    def of_account(self, account_id: str) -> list[Client]:
        """Return all clients of an account."""
        account = self._accounts.get(account_id)
        if account is None:
            return []
        clients = list(account.user)
        for groups in (account.session, account.machine):
            for group in groups.values():
                clients.extend(group)
        return clients

    def count(self, account_id: str) -> int:
        """Return how many clients an account has."""
        account = self._accounts.get(account_id)
        if account is None:
            return 0
        groups = (*account.session.values(), *account.machine.values())
        return len(account.user) + sum(map(len, groups))

    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine of the account has a socket; a subscribed one is one of the session."""
        account = self._accounts.get(account_id)
        if account is None:
            return False
        return id in getattr(account, kind) or (kind == "session" and id in account.subscribed)


def _leave(groups: dict[str, dict[Client, None]], client: Client, ids: Collection[str]) -> None:
    for id in ids:
        group = groups.get(id)
        if group is not None and client in group:
            del group[client]
            if not group:
                del groups[id]
