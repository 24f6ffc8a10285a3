"""The id of a server: 8 hex digits that stay with its database, for the names of its backups."""

from __future__ import annotations

import secrets
from typing import Final

from happy_light.store import ReadTransaction, Transaction

LENGTH: Final = 8
_NONE: Final = "0" * LENGTH


def read(tx: ReadTransaction) -> str:
    """Return the id. A database that no server of this version has run on has one that follows from its secret."""
    rows: dict[str, str] = dict(tx.fetch_all("SELECT key, value FROM meta WHERE key IN ('server_id', 'secret_check')"))
    return str(rows.get("server_id") or rows.get("secret_check") or _NONE)[:LENGTH]


def is_recorded(tx: ReadTransaction) -> bool:
    """Whether the database has an id of its own."""
    return tx.fetch_one("SELECT 1 FROM meta WHERE key = 'server_id'") is not None


def record(tx: Transaction) -> None:
    """Give the database an id, unless it has one."""
    id = secrets.token_hex(LENGTH // 2)
    tx.execute("INSERT INTO meta (key, value) VALUES ('server_id', ?) ON CONFLICT DO NOTHING", (id,))
