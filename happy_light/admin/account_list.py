"""Accounts as an operator sees them: who they are and how much they store."""

from __future__ import annotations

from happy_light.auth.fingerprints import fingerprint, parse_fingerprint
from happy_light.blobs import StoredFiles
from happy_light.store import ReadTransaction
from happy_light.wire import Outgoing


class AccountSummary(Outgoing):
    """An account in short. Times in ms.

    `last_active_at` is the newest change or activity of the account, its sessions and its machines.
    """

    id: str
    fingerprint: str
    label: str | None
    username: str | None
    name: str | None
    created_at: int
    last_active_at: int


class Account(AccountSummary):
    """An account with what it stores: `database_bytes` counts what clients stored, `file_bytes` files on disk."""

    sessions: int
    messages: int
    machines: int
    artifacts: int
    projects: int
    database_bytes: int
    file_bytes: int


class AccountList(Outgoing):
    """GET /admin/api/accounts: the newest activity first."""

    accounts: list[Account]


def find(tx: ReadTransaction, name: str) -> str | None:
    """Return the id of the account with this id, username, public key (hex or base64) or fingerprint."""
    row = tx.fetch_one("SELECT id FROM accounts WHERE id = ? OR username = ?", (name, name))
    if row is not None:
        return str(row[0])
    wanted = parse_fingerprint(name)
    for id, public_key in tx.fetch_all("SELECT id, public_key FROM accounts") if wanted else []:
        if fingerprint_of(public_key) == wanted:
            return str(id)
    return None


def description(tx: ReadTransaction, account_id: str) -> str:
    """Return the id of an account, with its label if it has one, for the log."""
    row = tx.fetch_one("SELECT label FROM accounts WHERE id = ?", (account_id,))
    return account_id if row is None or row[0] is None else f"{account_id} ({row[0]})"


def list_accounts(tx: ReadTransaction, stored: list[StoredFiles], only: str | None = None) -> list[Account]:
    """Return every account, or the one with the id `only`, with `stored`, what is stored of all owners.

    Reads the length of every message.
    """
    sessions = _by_account(
        tx, "SELECT account_id, count(*), max(active_at), sum(length(metadata) + coalesce(length(agent_state), 0) "
        "+ coalesce(length(avatar_preview), 0)) FROM sessions WHERE account_id = coalesce(?, account_id) "
        "GROUP BY account_id",
        only, 3,
    )  # fmt: skip
    messages = _by_account(
        tx, "SELECT s.account_id, count(*), sum(length(m.content)) FROM sessions s JOIN messages m "
        "ON m.session_id = s.id WHERE s.account_id = coalesce(?, s.account_id) GROUP BY s.account_id", only, 2,
    )  # fmt: skip
    machines = _by_account(
        tx, "SELECT account_id, count(*), max(active_at), sum(length(metadata) + coalesce(length(daemon_state), 0)) "
        "FROM machines WHERE account_id = coalesce(?, account_id) GROUP BY account_id", only, 3,
    )  # fmt: skip
    artifacts = _by_account(
        tx, "SELECT account_id, count(*), sum(length(header) + length(body)) FROM artifacts "
        "WHERE account_id = coalesce(?, account_id) GROUP BY account_id", only, 2,
    )  # fmt: skip
    projects = _by_account(
        tx, "SELECT account_id, count(*), sum(length(metadata) + coalesce(length(avatar_preview), 0)) FROM projects "
        "WHERE account_id = coalesce(?, account_id) GROUP BY account_id", only, 2,
    )  # fmt: skip
    values = _by_account(
        tx, "SELECT account_id, sum(coalesce(length(value), 0)) FROM kv WHERE account_id = coalesce(?, account_id) "
        "GROUP BY account_id",
        only, 1,
    )  # fmt: skip
    files = _file_sizes(tx, stored, only)
    accounts = []
    for id, key, label, username, first, last, created, updated in tx.fetch_all(
        "SELECT id, public_key, label, username, first_name, last_name, created_at, updated_at FROM accounts "
        "WHERE id = coalesce(?, id)",
        (only,),
    ):
        session_count, session_active, session_bytes = sessions.get(id, (0, 0, 0))
        machine_count, machine_active, machine_bytes = machines.get(id, (0, 0, 0))
        message_count, message_bytes = messages.get(id, (0, 0))
        artifact_count, artifact_bytes = artifacts.get(id, (0, 0))
        project_count, project_bytes = projects.get(id, (0, 0))
        (value_bytes,) = values.get(id, (0,))
        accounts.append(
            Account(
                id=id,
                fingerprint=fingerprint_of(key),
                label=label,
                username=username,
                name=full_name(first, last),
                created_at=created,
                last_active_at=max(updated, session_active, machine_active),
                sessions=session_count,
                messages=message_count,
                machines=machine_count,
                artifacts=artifact_count,
                projects=project_count,
                database_bytes=session_bytes
                + message_bytes
                + machine_bytes
                + artifact_bytes
                + project_bytes
                + value_bytes,
                file_bytes=files.get(id, 0),
            )
        )
    return sorted(accounts, key=lambda account: -account.last_active_at)


def _by_account(tx: ReadTransaction, sql: str, only: str | None, width: int) -> dict[str, tuple[int, ...]]:
    """Return the first `width` numbers of each row by the account that it begins with."""
    return {row[0]: tuple(row[1 : width + 1]) for row in tx.fetch_all(sql, (only,))}


def full_name(first: str | None, last: str | None) -> str | None:
    """Return the name of a profile, None if it has none."""
    return " ".join(filter(None, (first, last))) or None


def fingerprint_of(public_key: str) -> str:
    """Return the fingerprint of the column public_key; an account whose deletion was interrupted has none."""
    return "being deleted" if public_key.startswith("deleted ") else fingerprint(bytes.fromhex(public_key))


def _file_sizes(tx: ReadTransaction, found: list[StoredFiles], only: str | None) -> dict[str, int]:
    owners: dict[tuple[str, str], str] = {}
    for table in ("sessions", "projects"):
        rows = tx.fetch_all(f"SELECT id, account_id FROM {table} WHERE account_id = coalesce(?, account_id)", (only,))
        owners |= {(table, id): account_id for id, account_id in rows}
    sizes: dict[str, int] = {}
    for files in found:
        owner = files.owner if files.table == "accounts" else owners.get((files.table, files.owner))
        if owner is not None:
            sizes[owner] = sizes.get(owner, 0) + files.size
    return sizes
