"""Connection-state recovery across processes: updates come from the outbox, the rest from Redis.

An offset is `<seq>.<time>`: the last update that the client had, and the time in ms of the event that carried it. It
means the same in every process and after a restart. Of an ephemeral event that replaces former ones a client may get
the latest twice, since clocks of processes differ; nothing else comes twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from happy_light import clock
from happy_light.bus import Audience, Committed, Scope
from happy_light.clients import Client, ClientDirectory, ClientKind, DisconnectReason
from happy_light.clients.client import receives
from happy_light.clients.packets import Packet
from happy_light.clients.recent_events import ACCOUNT_EVENTS_MAX, RecentEvent, RecentEvents
from happy_light.clients.recovery import CUT_OFF, Recovered, Recovery
from happy_light.cluster.messages import Drop, Moment, Names, RemoteClient, hash_pid
from happy_light.cluster.redis_link import RedisLink
from happy_light.cluster.redis_node import Command
from happy_light.cluster.remote_clients import RemoteClients
from happy_light.cluster.updates import UpdateFeed
from happy_light.errors import ServiceUnavailable

_WAIT_MAX: Final = 1.0  # s for the former process to close the connection, or for this one to have caught up
_WAIT_STEP: Final = 0.02  # s
_SKEW: Final = 1_000  # ms by which clocks of processes may differ
_MOMENTS_KEPT: Final = 60  # s that ephemeral events are kept longer than connections
_EXTEND_EVERY: Final = 20_000  # ms
_EXTENDED_MAX: Final = 100_000  # accounts
_DIGITS_MAX: Final = 15


class _KeptMoment(msgspec.Struct, array_like=True, frozen=True):
    at: int  # ms
    scope: Scope
    id: str
    body: bytes
    replaceable: bool


class _Ended(msgspec.Struct, frozen=True):
    """A connection that was cut off. `generation`: how often its account had been signed out everywhere."""

    client: RemoteClient
    generation: int


_encode = msgspec.msgpack.Encoder().encode
_decode_moment = msgspec.msgpack.Decoder(_KeptMoment).decode
_decode_ended = msgspec.msgpack.Decoder(_Ended).decode


def parse_offset(offset: str) -> tuple[int, int] | None:
    """Return seq and time of an offset; None if it is none."""
    parts = offset.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) <= _DIGITS_MAX for part in parts):
        return None
    return int(parts[0]), int(parts[1])


class OffsetEvents(RecentEvents):
    """Gives events their offsets. It keeps only what is delivered while a client is being recovered."""

    def __init__(self, updates: UpdateFeed) -> None:
        super().__init__()
        self._updates = updates
        self.taps: dict[str, list[list[RecentEvent]]] = {}
        """Lists by account, to which ephemeral events are added."""

    def is_held(self, account_id: str) -> bool:
        """Return True: every event has an offset."""
        return True

    def add(
        self,
        audience: Audience,
        encode: Callable[[bytes], Packet],
        skip: str | None,
        replaces: str | None,
        seq: int | None = None,
    ) -> Packet:
        """Return the packet of an event; `seq` is that of an update."""
        now = clock.now_ms()
        position = self._updates.sequencer.position(audience.account_id) if seq is None else seq
        packet = encode(b',"%d.%d"' % (position or 0, now))
        if seq is None:
            for tap in self.taps.get(audience.account_id, ()):
                tap.append(RecentEvent(now, audience, packet, skip))
        return packet


class SharedRecovery(Recovery):
    """The connections of all processes. `window` is how long after their end they can be continued, in s; 0: never."""

    is_shared = True

    def __init__(
        self,
        window: float,
        names: Names,
        link: RedisLink,
        updates: UpdateFeed,
        remote: RemoteClients,
        directory: ClientDirectory,
        tell: Callable[[str, Drop], None],
    ) -> None:
        super().__init__(window)
        self._window = window
        self._names = names
        self._link = link
        self._updates = updates
        self._remote = remote
        self._directory = directory
        self._tell = tell
        self._extended: dict[str, int] = {}  # ms when the life of an account's ephemeral events was extended
        self._events = OffsetEvents(updates)
        if self.enabled:
            self.events = self._events

    # -------------------------------------------------------------------------- what is kept in Redis
    def begin(self, client: Client, recovered: Recovered | None) -> str | None:
        """Return the pid of a new client; None where recovery is off."""
        if not self.enabled:
            return None
        client.pid = secrets.token_urlsafe(18) if recovered is None else recovered.pid
        return client.pid

    def end(self, client: Client, reason: DisconnectReason) -> None:
        """Keep a client that was cut off for the window; forget one that left or was sent away."""
        if client.pid and reason in CUT_OFF:
            self.keep(self._remote.describe(client))

    def keep(self, client: RemoteClient) -> None:
        """Keep a client that was cut off."""
        if not self.enabled or not client.pid:
            return
        key = self._names.ended(client.account_id, client.pid)
        record = _encode(_Ended(client, self._updates.generation(client.account_id)))
        self._link.send(key, ("SET", key, record, "EX", str(max(1, round(self._window)))))

    def keep_moment(self, moment: Moment) -> None:
        """Keep an ephemeral event for clients that are cut off now."""
        if not self.enabled:
            return
        key = self._names.moments(moment.account_id)
        now = clock.now_ms()
        kept = _encode(_KeptMoment(now, moment.scope, moment.id, moment.body, moment.replaces is not None))
        commands: list[Command] = [("HSET", key, moment.replaces or secrets.token_urlsafe(6), kept)]
        if now - self._extended.get(moment.account_id, 0) > _EXTEND_EVERY:
            if len(self._extended) >= _EXTENDED_MAX:
                self._extended.clear()
            self._extended[moment.account_id] = now
            commands.append(("EXPIRE", key, str(round(self._window) + _MOMENTS_KEPT)))
        self._link.send(key, *commands)

    # --------------------------------------------------------------------------------------- recovery
    async def prepare(self, pid: str, offset: str, account_id: str, kind: ClientKind, id: str) -> Recovered | None:
        """Return what the connection of this pid continues with; None if it cannot. The account must be loaded.

        What it returns is complete at that moment: the client must enter before anything else happens.
        """
        had = parse_offset(offset)
        if not self.enabled or not pid or had is None:
            return None
        former = await self._claim(account_id, hash_pid(pid))
        if former is None or (former.kind, former.id) != (kind, id):
            return None
        tap: list[RecentEvent] = []
        taps = self._events.taps.setdefault(account_id, [])
        taps.append(tap)
        try:
            moments = await self._moments(account_id, had[1])
            updates = await self._missed(account_id, had[0])
        except ServiceUnavailable:
            return None
        finally:
            taps.remove(tap)
            if not taps:
                self._events.taps.pop(account_id, None)
        if moments is None or updates is None:
            return None
        missed = [
            Packet(b'42["update",%b,"%d.%d"]' % (update.frame, update.seq, had[1]))
            for update in updates
            if _hears(former, update.audience, update.skip)
        ]
        position = updates[-1].seq if updates else had[0]
        missed += [
            Packet(b'42["ephemeral",%b,"%d.%d"]' % (moment.body, position, moment.at))
            for moment in moments
            if _hears(former, Audience(account_id, moment.scope, moment.id), None)
        ]
        missed += [event.packet for event in tap if _hears(former, event.audience, event.skip)]
        return Recovered(former.sid, pid, frozenset(former.subscriptions), missed)

    async def _claim(self, account_id: str, pid: str) -> RemoteClient | None:
        """Return the connection of a pid and forget it; if it seems to be alive, close it first."""
        await self._close(account_id, pid)
        key = self._names.ended(account_id, pid)
        replies = await self._link.ask(key, ("GETDEL", key))
        if replies is not None and replies[0] is not None:
            ended = _decode_ended(replies[0])
            return ended.client if ended.generation == self._updates.generation(account_id) else None
        left = self._remote.find_pid(account_id, pid)
        if left is not None and await self._remote.take_away(left):
            return left  # its process did not answer: it is dead or stands still
        return None

    async def _close(self, account_id: str, pid: str) -> None:
        for client in self._directory.local.of_account(account_id):
            if client.pid and hash_pid(client.pid) == pid:
                client.transport.end("transport close")
                return
        former = self._remote.find_pid(account_id, pid)
        if former is None:
            return
        self._tell(former.process, Drop(former.sid, pid))
        for _ in range(round(_WAIT_MAX / _WAIT_STEP)):
            if self._remote.find_pid(account_id, pid) is None:
                return
            await asyncio.sleep(_WAIT_STEP)

    def drop(self, message: Drop) -> None:
        """Close a connection of this process, which its client continues in another one."""
        client = self._directory.local.get(message.sid)
        if client is not None and hash_pid(client.pid) == message.pid:
            client.transport.end("transport close")

    async def _moments(self, account_id: str, since: int) -> list[_KeptMoment] | None:
        """Return the ephemeral events of an account that a client may have missed since then (ms), oldest first."""
        key = self._names.moments(account_id)
        replies = await self._link.ask(key, ("HGETALL", key))
        if replies is None:
            return None
        fields = [(field, _decode_moment(value)) for field, value in zip(*[iter(replies[0])] * 2, strict=True)]
        outdated = clock.now_ms() - 1000 * (round(self._window) + _MOMENTS_KEPT)
        if old := [field for field, kept in fields if kept.at < outdated]:
            self._link.send(key, ("HDEL", key, *old))
        found = [kept for _, kept in fields if kept.at > (since - _SKEW if kept.replaceable else since)]
        return sorted(found, key=lambda kept: kept.at)

    async def _missed(self, account_id: str, had: int) -> list[Committed] | None:
        """Return the updates behind seq `had` up to what the account's sockets here have been sent; None if unknown."""
        end = asyncio.get_running_loop().time() + _WAIT_MAX
        updates: list[Committed] = []
        while True:
            position = self._updates.sequencer.position(account_id)
            last = updates[-1].seq if updates else had
            if position is None or position - had > ACCOUNT_EVENTS_MAX:
                return None
            if position == last:
                return updates
            if position > last:
                more = await self._updates.read(account_id, last + 1, position)
                if [update.seq for update in more] != list(range(last + 1, position + 1)):
                    return None
                updates += more
            elif asyncio.get_running_loop().time() > end:
                return None
            else:  # the client comes from a process that was ahead of this one
                await asyncio.sleep(_WAIT_STEP)


def _hears(client: RemoteClient, audience: Audience, skip: str | None) -> bool:
    return skip != client.sid and receives(audience, client.kind, client.id, client.subscriptions)
