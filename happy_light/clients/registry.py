"""Who is connected: one `Peer` per socket, and an index of them by account, session and machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

from happy_light.bus import Audience

Kind = Literal["user", "session", "machine"]


class Client(ABC):
    """A connected client, as handlers see it. The edge (live/) makes and feeds it."""

    __slots__ = ("account_id", "app_state", "gone", "happy_client", "id", "kind", "sid")

    def __init__(self, sid: str, account_id: str, kind: Kind, id: str) -> None:
        self.sid = sid
        self.account_id = account_id
        self.kind: Kind = kind
        self.id = id
        """Of the session or machine that it stands for; "" for a user-scoped one."""
        self.app_state = "background"
        self.happy_client = ""
        """`happyClient` as it introduced itself, for metrics."""
        self.gone = False

    @abstractmethod
    def send(self, packet: Any) -> None:
        """Sends one encoded packet of the live edge; never waits."""

    @abstractmethod
    def emit(self, event: str, data: Any) -> None:
        """Sends one event."""

    @abstractmethod
    def call(self, event: str, data: Any, timeout: float, done: Callable[[Answer], None]) -> None:
        """Sends one event that wants an ack; `done` gets the answer, at the latest after `timeout` s."""


class Answer:
    """How a call to a peer ended: with arguments, or not at all."""

    __slots__ = ("args", "ending")

    def __init__(self, ending: Literal["answered", "timeout", "gone"], args: list[Any] | None = None) -> None:
        self.ending = ending
        self.args = args or []


class _Account:
    __slots__ = ("machine", "session", "user")

    def __init__(self) -> None:
        self.user: dict[Client, None] = {}
        self.session: dict[str, dict[Client, None]] = {}
        self.machine: dict[str, dict[Client, None]] = {}


class ClientRegistry:
    """The index. A socket is in one room only, so nobody hears an event twice."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def enter(self, client: Client) -> None:
        """From now on it hears what is due to it."""
        account = self._accounts.setdefault(client.account_id, _Account())
        if client.kind == "user":
            account.user[client] = None
        else:
            getattr(account, client.kind).setdefault(client.id, {})[client] = None
        self.count += 1

    def leave(self, client: Client) -> None:
        """It hears nothing any more. Empty rooms are removed."""
        account = self._accounts.get(client.account_id)
        if account is None:
            return
        room = account.user if client.kind == "user" else getattr(account, client.kind).get(client.id, {})
        if client not in room:
            return
        del room[client]
        self.count -= 1
        if not room and client.kind != "user":
            del getattr(account, client.kind)[client.id]
        if not (account.user or account.session or account.machine):
            del self._accounts[client.account_id]

    def of(self, to: Audience) -> Iterator[Client]:
        """Every peer of an audience, each once."""
        account = self._accounts.get(to.account_id)
        if account is None:
            return
        yield from account.user
        if to.scope == "session":
            yield from account.session.get(to.id, ())
        elif to.scope == "machine":
            yield from account.machine.get(to.id, ())

    def standing_for(self, account_id: str, kind: Kind, id: str) -> bool:
        """Whether a session or machine has a socket."""
        account = self._accounts.get(account_id)
        return account is not None and id in getattr(account, kind)

    def everyone(self) -> Iterator[Client]:
        """All sockets."""
        for account_id in self._accounts:
            yield from self.account(account_id)

    def count_of(self, account_id: str) -> int:
        """How many sockets an account has."""
        account = self._accounts.get(account_id)
        if account is None:
            return 0
        rooms = (*account.session.values(), *account.machine.values())
        return len(account.user) + sum(map(len, rooms))

    def account(self, account_id: str) -> list[Client]:
        """All sockets of an account."""
        account = self._accounts.get(account_id)
        if account is None:
            return []
        clients = list(account.user)
        for rooms in (account.session, account.machine):
            for room in rooms.values():
                clients.extend(room)
        return clients
