"""The heartbeats that are in memory: cached ownership, heartbeats not yet written, muted sessions, grace timers.

Clients send a heartbeat every few seconds. So ownership is looked up every 30 s at most, the database gets one
write per flush for all of them, and no heartbeat waits for that write (docs/protocol.md, section 15).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from happy_light.bus import Bus, Elsewhere, Muted, SetInactive, Unmuted
from happy_light.clients import Client, ClientDirectory
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.domains.presence.operations import (
    SILENCE_MAX,
    Key,
    activity_event,
    clamp_time,
    expire_silent,
    find_active,
    find_silent,
    set_inactive,
    store_heartbeats,
)
from happy_light.errors import ApiError, ServiceUnavailable
from happy_light.store import Database

T = TypeVar("T")

OWNERSHIP_LIFETIME: Final = 30.0  # s for which a looked-up owner is cached
WRITE_INTERVAL: Final = 30.0  # s between two writes for one session or machine
FLUSH_INTERVAL: Final = 2.0  # s between two flushes; what becomes active is written by the next one
EXPIRE_INTERVAL: Final = 60.0  # s between two searches for what is silent
MUTE_LIFETIME: Final = 60.0  # s for which heartbeats of an ended session are ignored
HEARD_ELSEWHERE: Final = 0.1  # s in which other processes have said what sockets they have
WRITE_MAX: Final = 200  # sessions and machines in one write, which locks the rows of their accounts
CACHE_MAX: Final = 100_000  # sessions and machines whose heartbeats are kept; beyond them the oldest is dropped
MUTED_MAX: Final = 10_000  # muted sessions and machines of one account; beyond them its oldest is dropped

_CLEAN_DISCONNECTS: Final = ("client disconnect", "transport close")
"""The engine's reasons for a disconnect that the client wanted, as opposed to a lost network."""


class _Entry:
    """What is known of a session or machine that was loaded here or has sent a heartbeat."""

    __slots__ = ("active", "last", "owned_until", "pending", "written")

    def __init__(self, active: bool, now: float) -> None:
        self.active = active
        """Whether it is active in the database, as far as this process knows."""
        self.owned_until = now + OWNERSHIP_LIFETIME
        self.pending = 0
        """Time of the latest heartbeat that is not written yet, in ms; 0 for none."""
        self.written = now - WRITE_INTERVAL
        """Time of the last write, in monotonic s. At first it is due, since the database may be behind."""
        self.last = -math.inf
        """Time of the last heartbeat, in monotonic s."""


class PresenceTracker:
    """The heartbeats of all sessions and machines with a socket here. Used on the event loop's thread only."""

    def __init__(self, settings: Settings, database: Database, bus: Bus, clients: ClientDirectory) -> None:
        self._settings = settings
        self._database = database
        self._bus = bus
        self._clients = clients
        self.stopping = False
        """Set when the server stops: sockets that disconnect from then on are not announced."""
        self._entries: dict[Key, _Entry] = {}
        self._muted: dict[str, dict[Key, float]] = {}
        """By account: until when what it has ended is muted, in monotonic s; the oldest first."""
        self._graces: dict[Key, asyncio.TimerHandle] = {}
        self._looks: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        """Grows with every mute and unmute, so that a lookup notices that its result may be outdated."""
        bus.subscribe(Muted, self._mute)
        bus.subscribe(Unmuted, self._unmute)
        bus.subscribe(SetInactive, self._forget)
        bus.subscribe(Elsewhere, self._elsewhere)

    # ------------------------------------------------------------------------------------- heartbeats
    def heartbeat(self, key: Key, sent: float, thinking: bool) -> bool | Awaitable[bool]:
        """Announce a heartbeat of the time `sent` (ms). Return whether it counted, at once if the owner is cached."""
        at = clamp_time(sent)
        if at is None or self._is_muted(key):
            return False
        entry = self._entries.get(key)
        if entry is not None and entry.owned_until > time.monotonic():
            self._record(key, entry, at, thinking)
            return True
        return self._look_up_and_record(key, at, thinking)

    async def _look_up_and_record(self, key: Key, at: int, thinking: bool) -> bool:
        while True:
            generation = self._generation
            active = await self._database.read(find_active, key)
            if generation == self._generation:
                break  # else something was ended, deleted or registered meanwhile, perhaps this one
        if active is None or self._is_muted(key):
            self._entries.pop(key, None)
            return False
        entry = self._entries.get(key)
        if entry is None:
            entry = self._add(key, active)
        entry.active, entry.owned_until = active, time.monotonic() + OWNERSHIP_LIFETIME
        self._record(key, entry, at, thinking)
        return True

    def _add(self, key: Key, active: bool) -> _Entry:
        if len(self._entries) >= CACHE_MAX:
            self._entries.pop(next(iter(self._entries)))
        entry = self._entries[key] = _Entry(active, time.monotonic())
        return entry

    def _record(self, key: Key, entry: _Entry, at: int, thinking: bool) -> None:
        entry.pending = max(entry.pending, at)
        entry.last = time.monotonic()
        self._bus.publish(activity_event(key, True, at, thinking))

    async def flush(self, everything: bool = False) -> None:
        """Write the heartbeats that are due, or all pending ones. Raises ServiceUnavailable; they stay pending then."""
        now = time.monotonic()
        due = {
            (key, entry.pending): entry
            for key, entry in self._entries.items()
            if entry.pending and (everything or not entry.active or now - entry.written >= WRITE_INTERVAL)
        }
        for part in _parts(list(due)):
            await self._database.write_for({key.account_id for key, _ in part}, store_heartbeats, part)
            for beat in part:
                entry = due[beat]
                entry.active, entry.written = True, now
                if entry.pending == beat[1]:  # else a later one has come meanwhile
                    entry.pending = 0

    async def expire(self) -> None:
        """Make inactive what was silent for 10 minutes, and drop entries that are no longer needed."""
        await self.flush(everything=True)
        async with self._database.lease("presence") as granted:
            if granted:
                await self._expire_silent()
        now = time.monotonic()
        self._entries = {key: entry for key, entry in self._entries.items() if entry.last > now - SILENCE_MAX / 1000}
        for muted in list(self._muted.values()):
            for key in [key for key, until in muted.items() if until <= now]:
                self._end_mute(key)

    async def _expire_silent(self) -> None:
        for part in _parts(await self._database.read(find_silent)):
            accounts = {key.account_id for key in part}
            for key in await self._database.write_for(accounts, expire_silent, part):
                self._bus.publish(SetInactive(*key))

    def _forget(self, message: SetInactive) -> None:
        """Drop an entry that says "active" still: the next heartbeat would not be written for up to 30 s."""
        self._entries.pop(Key(message.kind, message.account_id, message.id), None)

    # ------------------------------------------------------------------------------------- muting
    def mute(self, key: Key, write: asyncio.Future[Any]) -> None:
        """Ignore the heartbeats of what a write, queued just now, ends or deletes: none may revive it afterwards.

        If the write finds that the account has no such session or machine, nothing of it is kept.
        """
        self._bus.publish(Muted(*key))
        write.add_done_callback(partial(self._forget_owner, key))

    def _forget_owner(self, key: Key, write: asyncio.Future[Any]) -> None:
        if not write.cancelled() and isinstance(write.exception(), ApiError):
            self._bus.publish(Unmuted(*key))
        self._entries.pop(key, None)  # which it has if it was loaded meanwhile: its owner is not known any more

    def _mute(self, message: Muted) -> None:
        key = Key(message.kind, message.account_id, message.id)
        self._generation += 1
        self._entries.pop(key, None)
        muted = self._muted.setdefault(key.account_id, {})
        muted.pop(key, None)
        if len(muted) >= MUTED_MAX:
            del muted[next(iter(muted))]
        muted[key] = time.monotonic() + MUTE_LIFETIME

    def _unmute(self, message: Unmuted) -> None:
        """Accept heartbeats of what was loaded or registered, whose owner need not be looked up then.

        It is looked up all the same if something has ended or deleted it meanwhile, or may have in another process.
        """
        key = Key(message.kind, message.account_id, message.id)
        self._generation += 1
        self._entries.pop(key, None)
        if not self._end_mute(key) and self._clients.others is None:
            self._add(key, False)  # whether it is active is not known; that it is will be written

    def _end_mute(self, key: Key) -> bool:
        """Return whether it was muted."""
        muted = self._muted.get(key.account_id)
        if muted is None or muted.pop(key, None) is None:
            return False
        if not muted:
            del self._muted[key.account_id]
        return True

    def _is_muted(self, key: Key) -> bool:
        muted = self._muted.get(key.account_id)
        until = None if muted is None else muted.get(key)
        if until is None:
            return False
        if until < time.monotonic():
            self._end_mute(key)
            return False
        return True

    # ------------------------------------------------------------------------------------- sockets
    def connected(self, client: Client) -> None:
        """Announce that a machine is active; end the graces of what the client is a socket of."""
        for key in _keys_of(client):
            self._cancel_grace(key)
            if key.kind == "machine":
                self._bus.publish(activity_event(key, True, now_ms()))

    def subscribed(self, client: Client, session_ids: Iterable[str]) -> None:
        """End the graces of sessions that a machine's socket has subscribed to: it is a socket of them."""
        for id in session_ids:
            self._cancel_grace(Key("session", client.account_id, id))

    def disconnected(self, client: Client, reason: str) -> None:
        """Start the grace of each session or machine whose last socket disconnected; announce a machine as inactive.

        A session whose network was lost (`reason`) gets no grace: its silence decides.
        """
        for key in _keys_of(client):
            if self.stopping or self._clients.local.has_socket(key.account_id, key.kind, key.id):
                continue
            if self._clients.others is None:
                self._last_socket_left(key, reason)
            else:
                self._look_soon(key, reason)

    def _last_socket_left(self, key: Key, reason: str) -> None:
        if key.kind == "machine":
            self._bus.publish(activity_event(key, False, now_ms()))
        elif reason not in _CLEAN_DISCONNECTS:
            return
        self._start_grace(key)

    def _look_soon(self, key: Key, reason: str) -> None:
        """Look whether another process has a socket of it, once it has had the time to say so."""

        def look() -> None:
            self._looks.pop(key, None)
            if not self.stopping and not self._clients.has_socket(key.account_id, key.kind, key.id):
                self._last_socket_left(key, reason)

        self._cancel_look(key)
        self._looks[key] = asyncio.get_running_loop().call_later(HEARD_ELSEWHERE, look)

    def _elsewhere(self, message: Elsewhere) -> None:
        """Take what happened in another process."""
        for kind, id in message.keys:
            key = Key(kind, message.account_id, id)
            match message.what:
                case "heartbeat" | "joined":
                    self._cancel_grace(key)
                case "left":
                    self._cancel_look(key)
                case "lost" if not self.stopping and not self._clients.has_socket(key.account_id, kind, id):
                    self._last_socket_left(key, "transport error")

    def _start_grace(self, key: Key) -> None:
        self._cancel_grace(key)
        loop = asyncio.get_running_loop()
        self._graces[key] = loop.call_later(self._settings.session_grace, self._end_grace, key, time.monotonic())

    def _cancel_grace(self, key: Key) -> None:
        grace = self._graces.pop(key, None)
        if grace is not None:
            grace.cancel()

    def _cancel_look(self, key: Key) -> None:
        look = self._looks.pop(key, None)
        if look is not None:
            look.cancel()

    def _end_grace(self, key: Key, started: float) -> None:
        """Make it inactive, unless it sent a heartbeat since its last socket disconnected."""
        self._graces.pop(key, None)
        if self._clients.is_loaded(key.account_id):
            self._set_inactive(key, started)
            return
        task = asyncio.get_running_loop().create_task(self._load_and_set_inactive(key, started))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_and_set_inactive(self, key: Key, started: float) -> None:
        try:
            await self._clients.load(key.account_id)
        except ServiceUnavailable:
            return  # its silence decides
        self._set_inactive(key, started)

    def _set_inactive(self, key: Key, started: float) -> None:
        entry = self._entries.get(key)
        if self.stopping or (entry is not None and entry.last > started):
            return
        if self._clients.has_socket(key.account_id, key.kind, key.id):
            return
        self._bus.publish(SetInactive(*key))
        announce = key.kind == "session"  # a machine was announced when it disconnected
        written = self._database.write_for((key.account_id,), set_inactive, key, announce)
        written.add_done_callback(_retrieve_exception)

    async def close(self) -> None:
        """Cancel all graces and write all pending heartbeats. Raises ServiceUnavailable."""
        for timer in (*self._graces.values(), *self._looks.values()):
            timer.cancel()
        await self.flush(everything=True)


def _parts(items: list[T]) -> Iterator[list[T]]:
    """Yield the items in lists of at most WRITE_MAX."""
    for start in range(0, len(items), WRITE_MAX):
        yield items[start : start + WRITE_MAX]


def _keys_of(client: Client) -> list[Key]:
    """Return what the client is a socket of: its own session or machine, and the sessions that it is subscribed to."""
    keys = [] if client.kind == "user" else [Key(client.kind, client.account_id, client.id)]
    keys.extend(Key("session", client.account_id, id) for id in client.subscriptions)
    return keys


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting an exception that the store has logged already."""
    future.exception()
