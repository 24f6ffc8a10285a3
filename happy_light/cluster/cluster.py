"""One process among several that are one server: what it tells the others, and what it makes of what they tell.

While Redis is away, writes and local delivery go on; updates of other processes are found by the sweep, sockets of
other processes cannot be called, and tokens are verified anew for each request, since a sign-out would not be heard of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec

from happy_light import json_codec
from happy_light.auth.tokens import Tokens
from happy_light.bus import (
    Audience,
    BusMessage,
    Committed,
    DeviceSignedOut,
    Elsewhere,
    Ephemeral,
    MethodsElsewhere,
    SharedBus,
    SignedOut,
)
from happy_light.clients import CallFailed, Client, ClientDirectory, ClientKind
from happy_light.cluster import messages
from happy_light.cluster.calls import RemoteCalls
from happy_light.cluster.messages import (
    Alive,
    Announced,
    Answer,
    Call,
    Connected,
    Drop,
    Ended,
    Hint,
    HintedUpdate,
    Internal,
    Left,
    Message,
    Moment,
    Names,
    RemoteClient,
    StatusGiven,
    StatusWanted,
)
from happy_light.cluster.recovery import SharedRecovery
from happy_light.cluster.redis_link import RedisLink
from happy_light.cluster.remote_clients import RemoteClients
from happy_light.cluster.statuses import Statuses
from happy_light.cluster.updates import SWEEP_EVERY, UpdateFeed
from happy_light.config import RedisUrl
from happy_light.errors import ServiceUnavailable
from happy_light.store import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

ALIVE_EVERY: Final = 3.0  # s
SILENCE_MAX: Final = 10.0  # s after which a process counts as dead
LINGER: Final = 30.0  # s that an account without sockets here stays open
_STOPPED: Final = 5.0  # s between two looks at the clock after which this process must have been stopped
_COUNT: Final = "redis.call('SET', KEYS[1], 0, 'EX', ARGV[1], 'NX') return redis.call('INCR', KEYS[1])"


class _OpenAccount:
    """An account that this process follows. `used`: when it last had a socket here or was asked about, in loop s."""

    __slots__ = ("is_open", "opening", "used")

    def __init__(self, opening: asyncio.Task[None], used: float) -> None:
        self.opening = opening
        self.used = used
        self.is_open = False


class Cluster:
    """This process's part of the server; the directory of clients asks it for the sockets of other processes.

    `server` is the id of the server, `drop` closes the local sockets of an account. Used on the event loop's thread.
    """

    def __init__(
        self,
        url: RedisUrl,
        server: str,
        bus: SharedBus,
        database: Database,
        clients: ClientDirectory,
        tokens: Tokens,
        drop: Callable[[str], None],
        recovery_window: float,
    ) -> None:
        self.id = messages.new_process_id()
        self._sender = self.id.encode()
        self._loop = asyncio.get_running_loop()
        self._bus = bus
        self._local = clients.local
        self._tokens = tokens
        self._names = Names(server)
        self.link = RedisLink(url, self._receive, self._connected, self._disconnected)
        self.updates = UpdateFeed(database, bus, drop)
        self.remote = RemoteClients(self.id, self._names, self.link, bus, clients, self._seen, self._lost)
        self.recovery = SharedRecovery(
            recovery_window, self._names, self.link, self.updates, self.remote, clients, self._tell_process
        )
        self.calls = RemoteCalls(self.id, self._names, self.link, clients)
        self.statuses = Statuses(self.id, self._tell_all, self._tell_process)
        self._accounts: dict[str, _OpenAccount] = {}
        self._heard: dict[str, float] = {}  # the other processes: when each was last heard of
        self._tasks: set[asyncio.Task[Any]] = set()
        self._catching_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the others. Redis may be away."""
        self._tokens.trust_cache(False)
        self._bus.share = self._share
        self._bus.subscribe(SignedOut, lambda message: self.updates.signed_out(message.account_id))
        self._bus.subscribe(DeviceSignedOut, self.updates.device_signed_out)
        await asyncio.gather(*(self.link.subscribe(name) for name in (self._names.all, self._names.process(self.id))))
        await self.link.start()
        self._spawn(self._live())
        self._spawn(self._sweep())

    async def check(self) -> None:
        """Raise ServiceUnavailable while Redis is away."""
        if not self.link.is_connected:
            raise ServiceUnavailable("Redis does not answer")

    async def close(self) -> None:
        """Leave; the sockets of this process must be closed by now."""
        for task in list(self._tasks):
            task.cancel()
        self.updates.stop()
        self.calls.fail_all()
        name = self._names.process(self.id)
        self.link.send(name, ("DEL", name))
        self._tell_all(Ended(self.id))
        await self.link.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the cluster failed", exc_info=error)

    # ------------------------------------------------------------------------- what this process says
    def _share(self, published: Sequence[BusMessage]) -> None:
        """Deliver here what the bus publishes, and tell the other processes."""
        hints: dict[str, list[Committed]] = {}
        for message in published:
            match message:
                case Committed():
                    hints.setdefault(message.audience.account_id, []).append(message)
                    self.updates.committed(message)
                case Ephemeral():
                    self._share_ephemeral(message)
                case Elsewhere() | MethodsElsewhere():
                    self._bus.deliver(message)
                case _:
                    self._bus.deliver(message)
                    self._tell_all(Internal(message))
        for account_id, updates in hints.items():
            wire = [HintedUpdate(update.audience.text, update.frame, update.skip) for update in updates]
            self._tell(self._names.account(account_id), Hint(account_id, updates[0].seq, wire))

    def _share_ephemeral(self, event: Ephemeral) -> None:
        body = json_codec.encode(event.body)
        self._bus.deliver(Ephemeral(event.audience, msgspec.Raw(body), event.replaces))
        account_id, scope, id = event.audience
        moment = Moment(account_id, scope, id, body, event.replaces, event.heartbeat)
        self.recovery.keep_moment(moment)
        self._tell(self._names.account(account_id), moment)

    def _tell(self, channel: str, message: Message) -> None:
        if self.link.is_connected:
            self.link.send(channel, self.link.publication(channel, messages.encode(self.id, message)))

    def _tell_process(self, process: str, message: Message) -> None:
        self._tell(self._names.process(process), message)

    def _tell_all(self, message: Message) -> None:
        self._tell(self._names.all, message)

    # ---------------------------------------------------------------------------- what the others say
    def _receive(self, payload: bytes) -> None:
        if messages.sender(payload) == self._sender:
            return
        try:
            message = messages.decode(payload)
        except msgspec.DecodeError as error:  # of another version
            log.error("a message of another process is not understood: %s", error)
            return
        match message:
            case Hint():
                self.updates.hinted(message)
            case Moment():
                self._ephemeral(message)
            case Announced() | Left():
                self.remote.receive(message)
            case Call():
                self.calls.serve(message)
            case Answer():
                self.calls.answered(message)
            case Drop():
                self.recovery.drop(message)
            case Internal(message=internal):
                self._bus.deliver(internal)
            case Connected():
                self._tokens.trust_cache(True)
            case StatusWanted():
                self.statuses.answer(message)
            case StatusGiven():
                self.statuses.given(message)
            case Alive(process=process):
                self._heard[process] = self._loop.time()
            case Ended(process=process):
                self._ended(process)

    def _ephemeral(self, moment: Moment) -> None:
        if moment.heartbeat is not None:
            self._bus.deliver(Elsewhere("heartbeat", moment.account_id, [moment.heartbeat]))
        audience = Audience(moment.account_id, moment.scope, moment.id)
        self._bus.deliver(Ephemeral(audience, msgspec.Raw(moment.body), moment.replaces))

    def _ended(self, process: str) -> None:
        if process == self.id:  # somebody has not heard of this process for too long
            self._spawn(self.remote.announce_all())
            return
        self._heard.pop(process, None)
        self.calls.process_gone(process)
        self._spawn(self.remote.process_gone(process))

    # -------------------------------------------------------------------------------------- liveness
    def _seen(self, process: str) -> None:
        self._heard.setdefault(process, self._loop.time())

    def _lost(self, client: RemoteClient) -> None:
        self.recovery.keep(client)

    async def _live(self) -> None:
        """Say every 3 s that this process lives, and notice when another one does not."""
        looked = said = self._loop.time()
        self._say_alive()
        while True:
            await asyncio.sleep(1)
            now = self._loop.time()
            if now - looked > _STOPPED:
                log.warning("this process stood still for %.0f s", now - looked)
                self._heard = dict.fromkeys(self._heard, now)  # their messages still have to be read
                self._spawn(self.remote.announce_all())
            looked = now
            if now - said >= ALIVE_EVERY:
                said = now
                self._say_alive()
            if self.link.is_connected:
                for process in [process for process, heard in self._heard.items() if now - heard > SILENCE_MAX]:
                    log.warning("process %s has not been heard of for %.0f s", process, SILENCE_MAX)
                    self._tell_all(Ended(process))
                    self._ended(process)

    def _say_alive(self) -> None:
        name = self._names.process(self.id)
        self.link.send(name, ("SET", name, "", "EX", str(round(SILENCE_MAX))))
        self._tell_all(Alive(self.id))

    def _connected(self) -> None:
        self._tokens.trust_cache(True)
        self._tell_all(Connected())
        now = self._loop.time()
        self._heard = dict.fromkeys(self._heard, now)
        self._say_alive()
        if self._catching_up is not None:
            self._catching_up.cancel()  # what it has read is older than what comes now
        self._catching_up = self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        """After Redis was away, which may have lost everything: tell and learn it all again."""
        await self.remote.announce_all()
        for account_id, account in list(self._accounts.items()):
            await asyncio.wait([account.opening])  # it may have begun while Redis was away, and read nothing
            if self._accounts.get(account_id) is account:
                await self.remote.load(account_id)
                self.remote.repeat_methods(account_id)
        await self.updates.sweep()

    def _disconnected(self) -> None:
        self._tokens.trust_cache(False)
        self.calls.fail_all()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            now = self._loop.time()
            for account_id, account in list(self._accounts.items()):
                if self._local.count(account_id):
                    account.used = now
                elif account.is_open and now - account.used > LINGER:
                    self._close(account_id)
            await self.updates.sweep()

    # ---------------------------------------------------------------------------------- open accounts
    def is_loaded(self, account_id: str) -> bool:
        """Return whether everything that happens to the account is heard here."""
        account = self._accounts.get(account_id)
        if account is None or not account.is_open:
            return False
        account.used = self._loop.time()
        return True

    async def load(self, account_id: str) -> None:
        """Listen to what happens to the account. Raises ServiceUnavailable."""
        account = self._accounts.get(account_id)
        if account is None:
            opening = self._loop.create_task(self._open(account_id))
            account = self._accounts[account_id] = _OpenAccount(opening, self._loop.time())
        await asyncio.shield(account.opening)

    async def _open(self, account_id: str) -> None:
        try:
            await self.link.subscribe(self._names.account(account_id))
            async with asyncio.TaskGroup() as both:
                both.create_task(self.updates.open(account_id))
                both.create_task(self.remote.load(account_id))
        except BaseException as error:
            self._close(account_id)
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._accounts[account_id].is_open = True

    def _close(self, account_id: str) -> None:
        self._accounts.pop(account_id, None)
        self.updates.close(account_id)
        self.remote.forget(account_id)
        self.link.unsubscribe(self._names.account(account_id))

    async def count_up(self, account_id: str, name: str, window: int) -> int | None:
        """Add one to a count of what an account does, which begins anew `window` s after its first, and return it.

        None while Redis is away.
        """
        key = self._names.count(account_id, name)
        replies = await self.link.ask(key, ("EVAL", _COUNT, "1", key, str(window)))
        return None if replies is None else int(replies[0])

    # --------------------------------------------------------------- what the directory of clients asks
    def has_socket(self, account_id: str, kind: ClientKind, id: str) -> bool:
        """Return whether a session or machine has a socket in another process."""
        return self.remote.has_socket(account_id, kind, id)

    def can_call(self, sid: str) -> bool:
        """Return whether the socket is in another process, and that process can be reached."""
        return self.link.is_connected and self.remote.get(sid) is not None

    def count(self, account_id: str) -> int:
        """Return how many sockets of an account are in other processes."""
        return len(self.remote.of_account(account_id))

    def foreground(self, account_id: str) -> bool:
        """Return whether a user-scoped socket in another process is in the foreground."""
        clients = self.remote.of_account(account_id).values()
        return any(client.kind == "user" and client.in_foreground for client in clients)

    def call(
        self, account_id: str, sid: str, event: str, data: Any, convert: Callable[[list[Any]], T]
    ) -> asyncio.Future[T]:
        """Call a socket in another process; see ClientDirectory.call."""
        target = self.remote.get(sid)
        if target is None or target.account_id != account_id:
            gone: asyncio.Future[T] = self._loop.create_future()
            gone.set_exception(CallFailed("disconnected", "RPC target disconnected"))
            return gone
        return self.calls.call(target, event, data, convert)

    async def announce(self, client: Client) -> None:
        """Tell the other processes what a socket is now. Returns when they can know it."""
        await self.remote.announce(client)

    async def tell(self) -> None:
        """Return when other processes can know the internal messages that were published."""
        await self.link.ask(self._names.all, ("PING",))

    def entered(self, client: Client) -> None:
        """Tell the other processes of a new socket, or of one that has changed."""
        self.remote.announce_soon(client)

    def left(self, client: Client) -> None:
        """Tell the other processes that a socket is gone."""
        self.remote.left(client)
