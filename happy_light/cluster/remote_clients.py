"""The sockets of other processes: what this process knows of them, and what it tells the others of its own.

Redis has a hash of sockets for each account. Whoever opens an account subscribes to its channel, then reads the hash;
a process that changes a socket of its own changes the hash, then announces it. So nothing is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from happy_light.bus import Elsewhere, MethodsElsewhere, SharedBus
from happy_light.clients import Client, ClientDirectory, ClientKind
from happy_light.cluster import messages
from happy_light.cluster.messages import Announced, Left, Names, RemoteClient, hash_pid
from happy_light.cluster.redis_link import RedisLink

_REANNOUNCED: Final = 200  # sockets announced in one go after Redis came back


class RemoteClients:
    """Used on the event loop's thread. `seen(process)` is called for every process that a socket is found on.

    `lost` is called, in one process, for each socket of a process that died.
    """

    def __init__(
        self,
        process: str,
        names: Names,
        link: RedisLink,
        bus: SharedBus,
        directory: ClientDirectory,
        seen: Callable[[str], None],
        lost: Callable[[RemoteClient], None],
    ) -> None:
        self._process = process
        self._names = names
        self._link = link
        self._bus = bus
        self._directory = directory
        self._seen = seen
        self._lost = lost
        self._accounts: dict[str, dict[str, RemoteClient]] = {}  # by RemoteClient.field
        self._by_sid: dict[str, RemoteClient] = {}
        self._loading: dict[str, list[Announced | Left]] = {}

    # ------------------------------------------------------------------------------------- questions
    def of_account(self, account_id: str) -> Mapping[str, RemoteClient]:
        """Return the known sockets of an account by their fields."""
        return self._accounts.get(account_id, {})

    def get(self, sid: str) -> RemoteClient | None:
        """Return the socket of this id."""
        return self._by_sid.get(sid)

    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine has a socket in another process."""
        return any(client.is_socket_of(kind, id) for client in self.of_account(account_id).values())

    def find_pid(self, account_id: str, pid: str) -> RemoteClient | None:
        """Return the socket whose connection has this pid (its hash)."""
        return next((client for client in self.of_account(account_id).values() if client.pid == pid), None)

    async def take_away(self, client: RemoteClient) -> bool:
        """Remove a socket of a process that does not answer; return whether nobody else did."""
        self._remove(client.account_id, client.field)
        name, channel = self._names.clients(client.account_id), self._names.account(client.account_id)
        left = messages.encode(self._process, Left(client.account_id, client.field))
        replies = await self._link.ask(name, ("HDEL", name, client.field), self._link.publication(channel, left))
        return replies is not None and replies[0] == 1

    # -------------------------------------------------------------------------------- other processes
    async def load(self, account_id: str) -> None:
        """Read the hash of an account whose channel is subscribed to; do nothing while Redis is away."""
        self._loading[account_id] = []
        name = self._names.clients(account_id)
        try:
            replies = await self._link.ask(name, ("HGETALL", name))
            if replies is not None:
                raw = replies[0]
                found = [messages.decode_client(value) for value in raw[1::2]]
                strange = {client.process for client in found} - {self._process}
                dead = await self._dead(strange)
                self._replace(account_id, {each.field: each for each in found if each.process in strange - dead})
                if gone := [each.field for each in found if each.process in dead]:
                    self._link.send(name, ("HDEL", name, *gone))
        finally:
            for message in self._loading.pop(account_id, ()):
                self.receive(message)

    async def _dead(self, processes: set[str]) -> set[str]:
        """Return those of the processes that have not said for a while that they live."""
        dead = set()
        for process in processes:
            name = self._names.process(process)
            if (replies := await self._link.ask(name, ("EXISTS", name))) is not None and not replies[0]:
                dead.add(process)
            else:
                self._seen(process)
        return dead

    def repeat_methods(self, account_id: str) -> None:
        """Tell once more which methods the account's sockets answer: they can be called again."""
        for client in list(self.of_account(account_id).values()):
            if client.methods and self._by_sid.get(client.sid) is client:
                self._bus.deliver(MethodsElsewhere(account_id, client.sid, client.methods))

    def forget(self, account_id: str) -> None:
        """Forget the sockets of an account that is closed."""
        self._loading.pop(account_id, None)
        self._replace(account_id, {})

    def receive(self, message: Announced | Left) -> None:
        """Take what another process tells of a socket."""
        announced = isinstance(message, Announced)
        account_id = message.client.account_id if isinstance(message, Announced) else message.account_id
        if (waiting := self._loading.get(account_id)) is not None:
            waiting.append(message)
        elif isinstance(message, Announced):
            self._seen(message.client.process)
            self._put(message.client)
        elif not announced:
            client = self._remove(account_id, message.field)
            # When the last sockets leave several processes at once, the process with the greatest id acts.
            later = client is not None and client.process > self._process
            self._bus.deliver(Elsewhere("left", account_id, client.keys() if client and later else message.last_of))

    def _replace(self, account_id: str, clients: dict[str, RemoteClient]) -> None:
        for field in [field for field in self.of_account(account_id) if field not in clients]:
            self._remove(account_id, field)
        for client in clients.values():
            self._put(client)

    def _put(self, client: RemoteClient) -> None:
        clients = self._accounts.setdefault(client.account_id, {})
        before = clients.get(client.field)
        clients[client.field] = client
        if before is None or before.subscriptions != client.subscriptions:
            self._bus.deliver(Elsewhere("joined", client.account_id, client.keys()))
        self._use(client.account_id, client.sid, client)

    def _remove(self, account_id: str, field: str) -> RemoteClient | None:
        clients = self._accounts.get(account_id, {})
        client = clients.pop(field, None)
        if client is None:
            return None
        if not clients:
            del self._accounts[account_id]
        if self._by_sid.get(client.sid) is client:  # else it has moved to another process
            others = (other for other in clients.values() if other.sid == client.sid)
            self._use(account_id, client.sid, next(others, None))
        return client

    def _use(self, account_id: str, sid: str, client: RemoteClient | None) -> None:
        """Set which socket an id stands for, unless it is one of this process."""
        before = self._by_sid.pop(sid, None)
        if client is not None:
            self._by_sid[sid] = client
        methods = client.methods if client else {}
        if (before.methods if before else {}) != methods and self._directory.local.get(sid) is None:
            self._bus.deliver(MethodsElsewhere(account_id, sid, methods))

    async def process_gone(self, process: str) -> None:
        """Forget the sockets of a process that ended or died.

        What follows from a socket's end is done by the process that removes it from the hash first.
        """
        accounts = list(self._accounts.values())
        clients = [client for each in accounts for client in each.values() if client.process == process]
        for client in clients:
            self._remove(client.account_id, client.field)
        for client in clients:
            name = self._names.clients(client.account_id)
            replies = await self._link.ask(name, ("HDEL", name, client.field))
            if replies is not None and replies[0]:
                self._lost(client)
                self._bus.deliver(Elsewhere("lost", client.account_id, client.keys()))

    # -------------------------------------------------------------------------------------- our own
    async def announce(self, client: Client) -> None:
        """Tell the others of a socket of this process: what it is now. Returns when they can know it."""
        if not client.gone:
            name, channel = self._names.clients(client.account_id), self._names.account(client.account_id)
            await self._link.ask(name, *self._announcement(client, name, channel))

    def announce_soon(self, client: Client) -> None:
        """Do the same without waiting."""
        name, channel = self._names.clients(client.account_id), self._names.account(client.account_id)
        self._link.send(name, *self._announcement(client, name, channel))

    def describe(self, client: Client) -> RemoteClient:
        """Return what other processes may know of a socket of this one."""
        return RemoteClient(
            client.sid, self._process, client.account_id, client.kind, client.id, client.app_state == "active",
            dict(self._directory.methods_of(client.sid)), list(client.subscriptions), hash_pid(client.pid),
        )  # fmt: skip

    def _announcement(self, client: Client, name: str, channel: str) -> tuple[tuple[str | bytes, ...], ...]:
        record = self.describe(client)
        payload = messages.encode(self._process, Announced(record))
        return (
            ("HSET", name, record.field, messages.encode_client(record)),
            self._link.publication(channel, payload),
        )

    def left(self, client: Client) -> None:
        """Tell the others that a socket of this process is gone."""
        account_id = client.account_id
        keys: list[messages.Key] = [] if client.kind == "user" else [(client.kind, client.id)]
        keys += [("session", id) for id in client.subscriptions]
        last_of = [(kind, id) for kind, id in keys if not self._directory.has_socket(account_id, kind, id)]
        field = f"{client.sid} {self._process}"
        payload = messages.encode(self._process, Left(account_id, field, last_of))
        name, channel = self._names.clients(account_id), self._names.account(account_id)
        self._link.send(name, ("HDEL", name, field), self._link.publication(channel, payload))

    async def announce_all(self) -> None:
        """Tell the others of every socket of this process, since they may have forgotten them."""
        for number, client in enumerate(list(self._directory.local), 1):
            if number % _REANNOUNCED:
                if not client.gone:
                    self.announce_soon(client)
            else:
                await self.announce(client)
