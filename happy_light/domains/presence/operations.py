"""What the database knows of the presence of sessions and machines (docs/protocol.md, section 15)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from happy_light.bus import Audience, Ephemeral
from happy_light.clock import now_ms
from happy_light.errors import SESSION_NOT_FOUND, ApiError
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Outgoing

SILENCE_MAX: Final = 10 * 60_000  # ms without a heartbeat after which a session or machine is inactive


class Key(NamedTuple):
    """Which session or machine: the kind, its account and its id."""

    kind: Literal["session", "machine"]
    account_id: str
    id: str


_TABLES: Final[dict[Literal["session", "machine"], str]] = {"session": "sessions", "machine": "machines"}


# -------------------------------------------------------------------------------------------- wire
class Activity(Outgoing, tag_field="type", tag="activity"):
    """Sent to user-scoped sockets: whether a session is active; activeAt is its last heartbeat in ms."""

    id: str
    active: bool
    active_at: int
    thinking: bool


class MachineActivity(Outgoing, tag_field="type", tag="machine-activity"):
    """Sent to user-scoped sockets: whether a machine is active; activeAt is its last heartbeat in ms."""

    id: str
    active: bool
    active_at: int


def activity_event(key: Key, active: bool, at: int, thinking: bool = False) -> Ephemeral:
    """Return the event that tells user-scoped sockets of the account whether it is active; `at` in ms."""
    body = Activity(key.id, active, at, thinking) if key.kind == "session" else MachineActivity(key.id, active, at)
    heartbeat = (key.kind, key.id) if active else None
    return Ephemeral(Audience(key.account_id), body, f"{key.kind} {key.id}", heartbeat)


def clamp_time(time: float) -> int | None:
    """Return a client's time (ms), the current time if it lies in the future, or None if it is over 10 minutes old."""
    now = now_ms()
    if not time > now - SILENCE_MAX:  # this way round NaN is rejected too
        return None
    return int(min(time, now))


# -------------------------------------------------------------------------------------- operations
def find_active(tx: ReadTransaction, key: Key) -> bool | None:
    """Return whether it is active, or None if the account has no such session or machine."""
    row = tx.fetch_one(
        f"SELECT active FROM {_TABLES[key.kind]} WHERE account_id = ? AND id = ?", (key.account_id, key.id)
    )
    return None if row is None else bool(row[0])


def store_heartbeats(tx: Transaction, heartbeats: Iterable[tuple[Key, int]]) -> None:
    """Make everything with a heartbeat active; each heartbeat is a key and a time in ms."""
    for kind, table in _TABLES.items():
        rows = [(at, at, key.account_id, key.id) for key, at in heartbeats if key.kind == kind]
        if rows:
            tx.executemany(
                f"UPDATE {table} SET active = 1, active_at = CASE WHEN active_at > ? THEN active_at ELSE ? END "
                "WHERE account_id = ? AND id = ?",
                rows,
            )


def end_session(tx: Transaction, account_id: str, session_id: str, at: int) -> None:
    """Make the session inactive as of `at` (ms) and announce it, even if it was inactive already.

    Raises ApiError SESSION_NOT_FOUND.
    """
    changed = tx.execute(
        "UPDATE sessions SET active = 0, active_at = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        (at, tx.now, session_id, account_id),
    )
    if not changed:
        raise ApiError(SESSION_NOT_FOUND)
    tx.publish(activity_event(Key("session", account_id, session_id), False, at))


def set_inactive(tx: Transaction, key: Key, announce: bool) -> None:
    """Make it inactive, and announce that if wanted; do nothing if it is inactive already."""
    row = tx.fetch_one(
        f"UPDATE {_TABLES[key.kind]} SET active = 0 WHERE account_id = ? AND id = ? AND active = 1 RETURNING active_at",
        (key.account_id, key.id),
    )
    if row is not None and announce:
        tx.publish(activity_event(key, False, row[0]))


def find_silent(tx: ReadTransaction) -> list[Key]:
    """Return what is active without a heartbeat in the last 10 minutes."""
    silent: list[Key] = []
    before = now_ms() - SILENCE_MAX
    for kind, table in _TABLES.items():
        rows = tx.fetch_all(f"SELECT account_id, id FROM {table} WHERE active = 1 AND active_at < ?", (before,))
        silent.extend(Key(kind, account_id, id) for account_id, id in rows)
    return silent


def expire_silent(tx: Transaction, keys: Iterable[Key]) -> list[Key]:
    """Make those of the keys inactive, and announce them, that are still silent; return them."""
    expired: list[Key] = []
    for key in keys:
        row = tx.fetch_one(
            f"UPDATE {_TABLES[key.kind]} SET active = 0 WHERE account_id = ? AND id = ? AND active = 1 "
            "AND active_at < ? RETURNING active_at",
            (key.account_id, key.id, tx.now - SILENCE_MAX),
        )
        if row is not None:
            expired.append(key)
            tx.publish(activity_event(key, False, row[0]))
    return expired
