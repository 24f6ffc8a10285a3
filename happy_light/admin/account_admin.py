"""Accounts as their operator sees them: how large they are, signing them out, deleting them with everything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

from happy_light.admin.context import AdminContext, AdminRequest, ProgressCallback
from happy_light.auth.fingerprints import fingerprint, parse_fingerprint
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Outgoing

PIECE = 2_000  # messages deleted in one transaction: others wait for it
_NEVER = 2**53  # s; no token is younger


class Named(Outgoing):
    """`accounts.sign-out`, `accounts.delete`: an account's id."""

    id: str


class Done(Outgoing):
    """What came of it: how many messages and files' bytes went, for a deletion."""

    id: str
    messages: int = 0
    bytes: int = 0


class Account(Outgoing):
    """A row of the list. Times in ms; `database_bytes` counts what clients stored, `file_bytes` files on disk."""

    id: str
    fingerprint: str
    username: str | None
    name: str | None
    created_at: int
    last_active_at: int
    sessions: int
    messages: int
    machines: int
    artifacts: int
    database_bytes: int
    file_bytes: int


# ----------------------------------------------------------------------------------------- reading
def find(tx: ReadTransaction, text: str) -> str:
    """The id of the account with this id, username, public key or fingerprint. Raises StartError."""
    row = tx.fetch_one("SELECT id FROM accounts WHERE id = ? OR username = ?", (text, text))
    if row is not None:
        return str(row[0])
    wanted = parse_fingerprint(text)
    for id, public_key in tx.fetch_all("SELECT id, public_key FROM accounts") if wanted else []:
        if _fingerprint(public_key) == wanted:
            return str(id)
    raise OperatorError(f"There is no account {text!r}: an id, username, public key or fingerprint is expected.")


def list_all(tx: ReadTransaction, settings: Settings, only: str | None = None) -> list[Account]:
    """Every account, or the one with the id `only`; the newest activity first. Reads every message's length."""
    sessions = _by_account(
        tx, "SELECT account_id, count(*), max(active_at), sum(length(metadata) + ifnull(length(agent_state), 0)) "
        "FROM sessions WHERE account_id = ifnull(?, account_id) GROUP BY account_id", only, 3,
    )  # fmt: skip
    messages = _by_account(
        tx, "SELECT s.account_id, count(*), sum(length(m.content)) FROM sessions s CROSS JOIN messages m "
        "ON m.session_id = s.id WHERE s.account_id = ifnull(?, s.account_id) GROUP BY s.account_id", only, 2,
    )  # fmt: skip
    machines = _by_account(
        tx, "SELECT account_id, count(*), max(active_at), sum(length(metadata) + ifnull(length(daemon_state), 0)) "
        "FROM machines WHERE account_id = ifnull(?, account_id) GROUP BY account_id", only, 3,
    )  # fmt: skip
    artifacts = _by_account(
        tx, "SELECT account_id, count(*), sum(length(header) + length(body)) FROM artifacts "
        "WHERE account_id = ifnull(?, account_id) GROUP BY account_id", only, 2,
    )  # fmt: skip
    values = _by_account(
        tx, "SELECT account_id, sum(ifnull(length(value), 0)) FROM kv WHERE account_id = ifnull(?, account_id) "
        "GROUP BY account_id",
        only, 1,
    )  # fmt: skip
    sizes = _file_sizes(tx, settings, only)
    accounts = []
    for id, key, username, first, last, created, updated in tx.fetch_all(
        "SELECT id, public_key, username, first_name, last_name, created_at, updated_at FROM accounts "
        "WHERE id = ifnull(?, id)",
        (only,),
    ):
        in_sessions, in_machines = sessions.get(id, (0, 0, 0)), machines.get(id, (0, 0, 0))
        in_messages, in_artifacts = messages.get(id, (0, 0)), artifacts.get(id, (0, 0))
        accounts.append(
            Account(
                id=id,
                fingerprint=_fingerprint(key),
                username=username,
                name=" ".join(filter(None, (first, last))) or None,
                created_at=created,
                last_active_at=max(updated, in_sessions[1], in_machines[1]),
                sessions=in_sessions[0],
                messages=in_messages[0],
                machines=in_machines[0],
                artifacts=in_artifacts[0],
                database_bytes=in_sessions[2] + in_messages[1] + in_machines[2] + in_artifacts[1]
                + values.get(id, (0,))[0],
                file_bytes=sizes.get(id, 0),
            )
        )  # fmt: skip
    return sorted(accounts, key=lambda account: -account.last_active_at)


def _by_account(tx: ReadTransaction, sql: str, only: str | None, width: int) -> dict[str, tuple[int, ...]]:
    return {row[0]: tuple(row[1 : width + 1]) for row in tx.fetch_all(sql, (only,))}


def _fingerprint(public_key: str) -> str:
    """Of the column public_key; an account whose deletion was interrupted has none."""
    return "being deleted" if public_key.startswith("deleted ") else fingerprint(bytes.fromhex(public_key))


def _file_sizes(tx: ReadTransaction, settings: Settings, only: str | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    owners: dict[str, str] = dict(
        tx.fetch_all("SELECT id, account_id FROM sessions WHERE account_id = ifnull(?, account_id)", (only,))
    )
    for folder in subfolders(session_files(settings)):
        if folder.name in owners:
            owner = owners[folder.name]
            sizes[owner] = sizes.get(owner, 0) + size_of(folder)
    for folder in subfolders(account_files(settings)):
        sizes[folder.name] = sizes.get(folder.name, 0) + size_of(folder)
    return sizes


def session_files(settings: Settings) -> Path:
    """The folder with a folder of attachments for each session."""
    return settings.attachments / "sessions"


def account_files(settings: Settings) -> Path:
    """The folder with a folder of public files for each account."""
    return settings.files / "public" / "users"


def subfolders(folder: Path) -> list[Path]:
    """The folders in it; none if it does not exist."""
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below it."""
    yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size_of(folder: Path) -> int:
    """Bytes of the files below it; those that go meanwhile count nothing."""
    total = 0
    for path in files_in(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def clear(folder: Path) -> int:
    """Deletes a folder, if it is there. -> how many bytes its files had"""
    size = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size


# ----------------------------------------------------------------------------------------- writing
def sign_out(tx: Transaction, account_id: str) -> None:
    """No token that exists now counts any more. Raises StartError."""
    since = tx.now // 1000 + 1
    if not tx.execute("UPDATE accounts SET tokens_since = ? WHERE id = ?", (since, account_id)):
        raise OperatorError(f"There is no account {account_id!r}.")


def shut(tx: Transaction, account_id: str) -> tuple[list[str], int]:
    """Nobody can sign in to the account any more: the first step of its deletion. Raises StartError.

    -> the ids of its sessions, and how many messages they have.
    """
    changed = tx.execute(
        "UPDATE accounts SET public_key = 'deleted ' || id, tokens_since = ?, username = NULL WHERE id = ?",
        (_NEVER, account_id),
    )
    if not changed:
        raise OperatorError(f"There is no account {account_id!r}.")
    rows = tx.fetch_all("SELECT id, seq FROM sessions WHERE account_id = ?", (account_id,))
    return [row[0] for row in rows], sum(row[1] for row in rows)


def empty(tx: Transaction, account_id: str, session_id: str) -> int:
    """Deletes some of a session's messages. -> how many; 0 when none are left"""
    return tx.execute(
        "DELETE FROM messages WHERE rowid IN (SELECT m.rowid FROM sessions s CROSS JOIN messages m "
        "ON m.session_id = s.id WHERE s.id = ? AND s.account_id = ? ORDER BY m.seq LIMIT ?)",
        (session_id, account_id, PIECE),
    )


def remove(tx: Transaction, account_id: str) -> None:
    """Deletes the account and the rest of what is its own."""
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    tx.execute("DELETE FROM accounts WHERE id = ?", (account_id,))
    if row is not None and row[0] is not None:
        tx.execute("DELETE FROM github_users WHERE id = ?", (row[0],))


# ---------------------------------------------------------------------------------------- requests
async def do_sign_out(admin: AdminContext, what: Named, progress: ProgressCallback) -> Done:
    await admin.database.write(what.id, sign_out)
    admin.sign_out(what.id)
    return Done(what.id)


async def do_delete(admin: AdminContext, what: Named, progress: ProgressCallback) -> Done:
    """In pieces, so that nobody else waits; what is left after an interruption goes with the next try."""
    sessions, messages = await admin.database.write(what.id, shut)
    admin.sign_out(what.id)
    deleted = size = 0
    for session_id in sessions:
        while count := await admin.database.write(what.id, empty, session_id):
            deleted += count
            progress(deleted, messages)
    folders = [session_files(admin.settings) / session_id for session_id in sessions]
    for folder in [*folders, account_files(admin.settings) / what.id]:
        size += await asyncio.to_thread(clear, folder)
    await admin.database.write(what.id, remove)
    return Done(what.id, deleted, size)


requests: dict[str, AdminRequest] = {
    "accounts.sign-out": AdminRequest(Named, Done, do_sign_out),
    "accounts.delete": AdminRequest(Named, Done, do_delete),
}
