"""Who is there: what is known of heartbeats, and what follows from silence (docs/protocol.md section 15)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Literal

from happy_light.bus import Audience, Bus, Ephemeral
from happy_light.clients import Client, ClientDirectory
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import SESSION_NOT_FOUND, ApiError
from happy_light.store import Database, ReadTransaction, Transaction
from happy_light.wire import Outgoing

Kind = Literal["session", "machine"]
Key = tuple[Kind, str, str]
"""(kind, account id, id of the session or machine)"""

OWNERSHIP = 30.0  # s that a looked-up owner is believed
WRITE_EVERY = 30.0  # s between two writes of one session or machine
FLUSH_EVERY = 2.0  # s between looks at what is to be written; a flip to active waits this long at most
MUTED = 60.0  # s in which heartbeats of an ended session are late ones
SILENT = 10 * 60_000  # ms after which whoever says nothing is inactive
KNOWN_MAX = 100_000

_TABLE = {"session": "sessions", "machine": "machines"}
# How the engine names an end that the client wanted, as opposed to a lost network.
_CLEAN = ("client disconnect", "transport close")


# -------------------------------------------------------------------------------------------- wire
class Activity(Outgoing, tag_field="type", tag="activity"):
    """Ephemeral about a session."""

    id: str
    active: bool
    active_at: int
    thinking: bool


class MachineActivity(Outgoing, tag_field="type", tag="machine-activity"):
    """Ephemeral about a machine."""

    id: str
    active: bool
    active_at: int


def sign(key: Key, active: bool, at: int, thinking: bool = False) -> Ephemeral:
    """The ephemeral that tells the account's user-scoped sockets."""
    kind, account_id, id = key
    body = Activity(id, active, at, thinking) if kind == "session" else MachineActivity(id, active, at)
    return Ephemeral(Audience(account_id), body)


def moment(sent: float) -> int | None:
    """A client's time (ms) as the server takes it: the future is now, older than 10 minutes is None."""
    now = now_ms()
    if not sent > now - SILENT:  # so that NaN is refused too
        return None
    return int(min(sent, now))


# -------------------------------------------------------------------------------------- operations
def look_up(tx: ReadTransaction, key: Key) -> bool | None:
    """Whether it is active in the database; None if the account has no such session or machine."""
    kind, account_id, id = key
    row = tx.fetch_one(f"SELECT active FROM {_TABLE[kind]} WHERE account_id = ? AND id = ?", (account_id, id))
    return None if row is None else bool(row[0])


def record(tx: Transaction, beats: Iterable[tuple[Key, int]]) -> None:
    """One write for all heartbeats (key, ms) that are due."""
    for kind, table in _TABLE.items():
        rows = [(at, at, key[1], key[2]) for key, at in beats if key[0] == kind]
        if rows:
            tx.executemany(
                f"UPDATE {table} SET active = 1, active_at = CASE WHEN active_at > ? THEN active_at ELSE ? END "
                "WHERE account_id = ? AND id = ?",
                rows,
            )


def end(tx: Transaction, account_id: str, session_id: str, at: int) -> None:
    """The session is over, as of `at` (ms). Raises Refused."""
    changed = tx.execute(
        "UPDATE sessions SET active = 0, active_at = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        (at, tx.now, session_id, account_id),
    )
    if not changed:
        raise ApiError(SESSION_NOT_FOUND)
    tx.publish(sign(("session", account_id, session_id), False, at))


def retire(tx: Transaction, key: Key, announce: bool) -> None:
    """Nobody stands for it any more: inactive, if it was not already."""
    kind, account_id, id = key
    row = tx.fetch_one(
        f"UPDATE {_TABLE[kind]} SET active = 0 WHERE account_id = ? AND id = ? AND active = 1 RETURNING active_at",
        (account_id, id),
    )
    if row is not None and announce:
        tx.publish(sign(key, False, row[0]))


def sweep(tx: Transaction) -> list[Key]:
    """Sessions and machines that were silent for 10 minutes become inactive. -> which."""
    silent: list[Key] = []
    for kind, table in _TABLE.items():
        for account_id, id, at in tx.fetch_all(
            f"UPDATE {table} SET active = 0 WHERE active = 1 AND active_at < ? RETURNING account_id, id, active_at",
            (tx.now - SILENT,),
        ):
            key: Key = ("session" if kind == "session" else "machine", account_id, id)
            silent.append(key)
            tx.publish(sign(key, False, at))
    return silent


# ---------------------------------------------------------------------------------------- memory
class _Seen:
    __slots__ = ("active", "beaten", "owned_until", "pending", "written")

    def __init__(self, active: bool, now: float) -> None:
        self.active = active  # in the database, as far as we know
        self.owned_until = now + OWNERSHIP
        self.pending = 0  # ms of the newest heartbeat not yet written, 0 for none
        self.written = now  # monotonic s
        self.beaten = now  # monotonic s


class PresenceTracker:
    """What is known of everybody's heartbeats."""

    def __init__(self, settings: Settings, database: Database, bus: Bus, clients: ClientDirectory) -> None:
        self._settings = settings
        self._database = database
        self._bus = bus
        self._clients = clients
        self.stopping = False
        """Set when the server stops: sockets that end now end with it."""
        self._known: dict[Key, _Seen] = {}
        self._muted: dict[Key, float] = {}
        self._graces: dict[Key, asyncio.TimerHandle] = {}
        self._generation = 0

    def mute(self, key: Key) -> None:
        """It ends (archive, delete, session-end): late heartbeats must not revive it.

        Called before the write that ends it, so that no heartbeat slips in behind that write.
        """
        self._generation += 1
        self._known.pop(key, None)
        if len(self._muted) >= KNOWN_MAX:
            self._muted.pop(next(iter(self._muted)))
        self._muted[key] = time.monotonic() + MUTED

    def unmute(self, key: Key) -> None:
        """It was loaded or registered again: heartbeats count from now on."""
        self._generation += 1
        self._muted.pop(key, None)
        self._known.pop(key, None)

    def beat(self, key: Key, sent: float, thinking: bool) -> Any:
        """A heartbeat. -> whether it counted, or a coroutine of that while the owner is looked up."""
        at = moment(sent)
        if at is None or self._is_muted(key):
            return False
        seen = self._known.get(key)
        if seen is not None and seen.owned_until > time.monotonic():
            self._take(key, seen, at, thinking)
            return True
        return self._look_up_and_take(key, at, thinking)

    async def _look_up_and_take(self, key: Key, at: int, thinking: bool) -> bool:
        while True:
            generation = self._generation
            active = await self._database.read(look_up, key)
            if generation == self._generation:  # nothing ended or was deleted while we looked
                break
        if active is None or self._is_muted(key):
            self._known.pop(key, None)
            return False
        seen = self._known.get(key)
        now = time.monotonic()
        if seen is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            seen = self._known[key] = _Seen(active, now)
            seen.written = now - WRITE_EVERY  # what the database knows may be old
        seen.active, seen.owned_until = active, now + OWNERSHIP
        self._take(key, seen, at, thinking)
        return True

    def _take(self, key: Key, seen: _Seen, at: int, thinking: bool) -> None:
        seen.pending = max(seen.pending, at)
        seen.beaten = time.monotonic()
        self._bus.publish(sign(key, True, at, thinking))

    def _is_muted(self, key: Key) -> bool:
        until = self._muted.get(key)
        if until is None:
            return False
        if until < time.monotonic():
            del self._muted[key]
            return False
        return True

    async def flush(self, everything: bool = False) -> None:
        """Writes the heartbeats that are due, all in one."""
        now = time.monotonic()
        beats: list[tuple[Key, int]] = []
        for key, seen in self._known.items():
            if seen.pending and (everything or not seen.active or now - seen.written >= WRITE_EVERY):
                beats.append((key, seen.pending))
                seen.pending, seen.active, seen.written = 0, True, now
        if beats:
            await self._database.write_for((), record, beats)

    async def sweep(self) -> None:
        """Once a minute: silence becomes inactivity, and what is remembered for nothing is forgotten."""
        await self.flush(everything=True)
        for key in await self._database.write_for((), sweep):
            self._known.pop(key, None)
        now = time.monotonic()
        self._known = {key: seen for key, seen in self._known.items() if seen.beaten > now - SILENT / 1000}
        self._muted = {key: until for key, until in self._muted.items() if until > now}

    # ------------------------------------------------------------------------------------- sockets
    def connected(self, client: Client) -> None:
        """A session or machine has a socket (again)."""
        key = _key_of(client)
        if key is None:
            return
        grace = self._graces.pop(key, None)
        if grace is not None:
            grace.cancel()
        if key[0] == "machine":
            self._bus.publish(sign(key, True, now_ms()))

    def disconnected(self, client: Client, reason: str) -> None:
        """The last socket of a machine went: it is offline. Of a session: it may come back at once."""
        key = _key_of(client)
        if key is None or self.stopping or self._clients.has_socket(key[1], key[0], key[2]):
            return
        if key[0] == "machine":
            self._bus.publish(sign(key, False, now_ms()))
        elif reason not in _CLEAN:
            return
        loop = asyncio.get_running_loop()
        self._graces[key] = loop.call_later(self._settings.session_grace, self._nobody_came, key, time.monotonic())

    def _nobody_came(self, key: Key, since: float) -> None:
        self._graces.pop(key, None)
        seen = self._known.get(key)
        if self.stopping or (seen is not None and seen.beaten > since):
            return
        self._known.pop(key, None)
        self._database.write_for((key[1],), retire, key, key[0] == "session").add_done_callback(_logged)

    async def close(self) -> None:
        """What is pending goes to disk; the sockets that end now end with the server."""
        for grace in self._graces.values():
            grace.cancel()
        await self.flush(everything=True)


def _key_of(client: Client) -> Key | None:
    return None if client.kind == "user" else (client.kind, client.account_id, client.id)


def _logged(future: asyncio.Future[Any]) -> None:
    future.exception()  # the store has written it to the log
