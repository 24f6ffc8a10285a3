"""The machines that an account has deleted, so that their daemons can be told (docs/protocol.md, section 4)."""

from __future__ import annotations

from typing import Final

from happy_light.store import ReadTransaction, Transaction

REMEMBERED_MAX: Final = 1000  # machines of one account


def is_remembered(tx: ReadTransaction, account_id: str, machine_id: str) -> bool:
    """Return whether the account deleted the machine and has not registered it again."""
    sql = "SELECT 1 FROM deleted_machines WHERE account_id = ? AND machine_id = ?"
    return tx.fetch_one(sql, (account_id, machine_id)) is not None


def remember(tx: Transaction, account_id: str, machine_id: str) -> None:
    """Remember that the account deleted a machine that was registered; forget its oldest deletion past the maximum."""
    tx.execute(
        "INSERT INTO deleted_machines (account_id, machine_id, deleted_at) VALUES (?, ?, ?) "
        "ON CONFLICT (account_id, machine_id) DO UPDATE SET deleted_at = excluded.deleted_at",
        (account_id, machine_id, tx.now),
    )
    tx.execute(
        "DELETE FROM deleted_machines WHERE account_id = ? AND machine_id IN (SELECT machine_id FROM deleted_machines "
        "WHERE account_id = ? ORDER BY deleted_at DESC, machine_id LIMIT 1 OFFSET ?)",
        (account_id, account_id, REMEMBERED_MAX),
    )


def forget(tx: Transaction, account_id: str, machine_id: str) -> None:
    """Forget that the account deleted the machine, because it is registered again."""
    tx.execute("DELETE FROM deleted_machines WHERE account_id = ? AND machine_id = ?", (account_id, machine_id))
