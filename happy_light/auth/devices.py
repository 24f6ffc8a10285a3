"""Devices: who is signed in to an account. A token is valid as long as its device is recorded here.

A device's id is the `jti` of its token. Tokens that other servers and older versions made, or programs that have the
master secret, have no record: all of an account's are one device, whose id is UNKNOWN, until it is signed out.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from happy_light.bus import DeviceSignedOut, SignedOut
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Outgoing

UNKNOWN: Final = "unknown"
"""The id of the device that stands for all tokens without a record."""
DEVICES_MAX: Final = 1_000  # devices of an account; one more signs out the one that was idle for longest
IDLE_MAX: Final = 365 * 86_400_000  # ms without a request after which `prune` signs a device out
CLIENT_MAX: Final = 100  # characters of a client's name that are kept

_SEEN: Final = "(kind <> 'secret' OR last_seen_at > created_at)"
Kind = Literal["signature", "terminal", "link", "import", "older", "secret"]
"""How a device came: by the signature of the account's key, as an approved terminal, as a second device that was
linked, with an import, before devices were recorded, or with a token that a program made that has the master secret."""


class Device(Outgoing):
    """A device as an operator sees it. Times in ms; `last_seen_at` may be 10 minutes behind.

    `approved_by` is the device that approved a terminal or a link, `client` the name and version that it last gave.
    """

    id: str
    kind: Kind
    approved_by: str | None
    client: str | None
    address: str | None
    created_at: int
    last_seen_at: int


def client_name(text: str) -> str | None:
    """Return the name and version that a client gives, as far as it can be printed; None for nothing."""
    return "".join(filter(str.isprintable, text[:CLIENT_MAX])).strip() or None


class NewDevice(msgspec.Struct, frozen=True):
    """A device that signs in: the id for its token, and what its request says about it."""

    id: str
    kind: Kind
    client: str | None
    address: str | None


def record(tx: Transaction, account_id: str, device: NewDevice, approved_by: str | None) -> None:
    """Record a device of the account. If there are too many, others are signed out to make room."""
    idle = tx.fetch_all(
        f"SELECT id FROM devices WHERE account_id = ? AND id <> '{UNKNOWN}' ORDER BY last_seen_at DESC, id "
        "LIMIT ? OFFSET ?",
        (account_id, DEVICES_MAX, DEVICES_MAX - 1),
    )
    for row in idle:
        sign_out_device(tx, account_id, row[0])
    tx.execute(
        "INSERT INTO devices (account_id, id, kind, approved_by, client, address, created_at, last_seen_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (account_id, device.id, device.kind, approved_by, device.client, device.address, tx.now, tx.now),
    )


def record_unknown(tx: Transaction, kind: Kind, account_id: str | None = None) -> None:
    """Let tokens without a record be valid, for an account or for every one."""
    tx.execute(
        "INSERT INTO devices (account_id, id, kind, created_at, last_seen_at) "
        f"SELECT id, '{UNKNOWN}', CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT) FROM accounts "
        "WHERE id = coalesce(?, id) ON CONFLICT DO NOTHING",
        (kind, tx.now, tx.now, account_id),
    )


def is_recorded(tx: ReadTransaction, account_id: str, device_id: str) -> bool:
    """Whether the device is signed in to the account."""
    row = tx.fetch_one("SELECT 1 FROM devices WHERE account_id = ? AND id = ?", (account_id, device_id))
    return row is not None


def list_devices(tx: ReadTransaction, account_id: str) -> list[Device]:
    """Return the devices of an account, those seen last first. One of kind "secret" is left out until it is seen."""
    rows = tx.fetch_all(
        "SELECT id, kind, approved_by, client, address, created_at, last_seen_at FROM devices WHERE account_id = ? "
        f"AND {_SEEN} ORDER BY last_seen_at DESC, created_at DESC, id",
        (account_id,),
    )
    return [Device(*row) for row in rows]


def sign_out_device(tx: Transaction, account_id: str, device_id: str, idle_since: int | None = None) -> bool:
    """Sign a device out in every process, and end the pairings that it approved and that nobody has picked up.

    With `idle_since` (ms) only if it was not seen from then on. Returns whether there was such a device.
    """
    deleted = tx.execute(
        "DELETE FROM devices WHERE account_id = ? AND id = ? AND last_seen_at < coalesce(?, last_seen_at + 1)",
        (account_id, device_id, idle_since),
    )
    if not deleted:
        return False
    tx.execute(
        "DELETE FROM auth_requests WHERE account_id = ? AND (device_id = ? OR (device_id IS NULL AND approved_by = ?))",
        (account_id, device_id, device_id),
    )
    row = tx.fetch_one(
        "UPDATE accounts SET device_sign_outs = device_sign_outs + 1 WHERE id = ? RETURNING device_sign_outs",
        (account_id,),
    )
    assert row is not None  # devices refer to their account
    tx.publish(DeviceSignedOut(account_id, device_id, row[0]))
    return True


def sign_out_all(tx: Transaction, account_id: str) -> None:
    """Sign every device of an account out in every process; its tokens get a new generation besides."""
    tx.execute("DELETE FROM devices WHERE account_id = ?", (account_id,))
    tx.publish(SignedOut(account_id))


def find_idle(tx: ReadTransaction, before: int) -> list[tuple[str, str]]:
    """Return (account, device) of each device that was not seen since `before` (ms), but for those never seen."""
    sql = f"SELECT account_id, id FROM devices WHERE last_seen_at < ? AND {_SEEN}"
    rows = tx.fetch_all(sql, (before,))
    return [(row[0], row[1]) for row in rows]


def store_seen(tx: Transaction, seen: list[tuple[str, str, str | None]]) -> None:
    """Note that these devices (account, device, name of the client if it gave one) were seen by now."""
    tx.executemany(
        "UPDATE devices SET last_seen_at = CASE WHEN last_seen_at > ? THEN last_seen_at ELSE ? END, "
        "client = coalesce(?, client) WHERE account_id = ? AND id = ?",
        [(tx.now, tx.now, client, account_id, id) for account_id, id, client in seen],
    )
