"""Deleting what nobody needs any more: silent sessions, old messages, files without an owner."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from happy_light import wire
from happy_light.admin.account_admin import PIECE, account_files, clear, session_files, size_of, subfolders
from happy_light.admin.context import AdminContext, AdminRequest, ProgressCallback
from happy_light.domains import auth
from happy_light.domains.sessions import commands
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Outgoing

log = logging.getLogger(__name__)

SETTLED = 3600.0  # s that a file without an owner must be old: one may just be on its way
EVERY = 86_400.0  # s between two runs of what the settings ask for
_LOOK = 5_000  # messages looked at in one go
_PAGES = 256  # pages given back to the disk in one transaction


class Wanted(Outgoing):
    """`prune`: ages in s, null for "keep"; `dry_run` only counts."""

    sessions_inactive: int | None = None
    messages_older: int | None = None
    dry_run: bool = False


class Pruned(Outgoing):
    """How much went, or would go. `freed_bytes` is what the database file became smaller."""

    dry_run: bool
    sessions: int = 0
    messages: int = 0
    auth_requests: int = 0
    orphaned_folders: int = 0
    file_bytes: int = 0
    freed_bytes: int = 0


# -------------------------------------------------------------------------------------- operations
def silent(tx: ReadTransaction, before: int) -> list[tuple[str, str, int]]:
    """(account, session, messages) of each session that was not active since `before` (ms)."""
    return [
        (row[0], row[1], row[2])
        for row in tx.fetch_all(
            "SELECT account_id, id, (SELECT count(*) FROM messages m WHERE m.session_id = s.id) "
            "FROM sessions s WHERE active = 0 AND active_at < ?",
            (before,),
        )
    ]


def empty_silent(tx: Transaction, account_id: str, session_id: str, before: int) -> int | None:
    """Deletes some of its messages, oldest first, and the session when none are left.

    -> how many messages; None when there is nothing more to do, also because it became active.
    """
    still = tx.fetch_one(
        "SELECT 1 FROM sessions WHERE id = ? AND account_id = ? AND active = 0 AND active_at < ?",
        (session_id, account_id, before),
    )
    if still is None:
        return None
    count = tx.execute(
        "DELETE FROM messages WHERE rowid IN (SELECT rowid FROM messages WHERE session_id = ? ORDER BY seq LIMIT ?)",
        (session_id, PIECE),
    )
    if count < PIECE:
        commands.delete(tx, account_id, session_id)
    return count


def old(tx: ReadTransaction, after: int, before: int) -> tuple[list[int], int | None]:
    """Looks at the next messages behind row `after`. -> the rows older than `before` (ms), and where it came to."""
    rows = tx.fetch_all("SELECT rowid, created_at FROM messages WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, _LOOK))
    return [row[0] for row in rows if row[1] < before], rows[-1][0] if rows else None


def drop(tx: Transaction, rows: list[int], before: int) -> None:
    """Deletes these messages."""
    tx.executemany("DELETE FROM messages WHERE rowid = ? AND created_at < ?", [(row, before) for row in rows])


def without_owner(tx: ReadTransaction, folders: list[Path], table: str) -> list[Path]:
    """Those that are named after no row of the table."""
    assert table in ("sessions", "accounts")
    return [folder for folder in folders if tx.fetch_one(f"SELECT 1 FROM {table} WHERE id = ?", (folder.name,)) is None]


def expired(tx: ReadTransaction, now: int) -> int:
    """How many auth requests count no more."""
    row = tx.fetch_one(
        "SELECT count(*) FROM auth_requests WHERE created_at < ? OR picked_up_at < ?",
        (now - auth.UNANSWERED, now - auth.PICKED_UP),
    )
    return 0 if row is None else int(row[0])


def give_back(tx: Transaction) -> int:
    """Cuts some free pages off the database file. -> bytes; 0 when there is nothing to cut"""
    size = tx.fetch_all("PRAGMA page_count")[0][0]
    for _ in range(_PAGES):  # one by one: Python steps a statement without columns once, which is one page
        tx.execute("PRAGMA incremental_vacuum(1)")
    pages: int = size - tx.fetch_all("PRAGMA page_count")[0][0]
    return pages * int(tx.fetch_all("PRAGMA page_size")[0][0])


# ---------------------------------------------------------------------------------------- requests
async def orphans(admin: AdminContext) -> list[Path]:
    """Folders of files whose session or account is gone, and that did not change for an hour."""
    found: list[Path] = []
    for folder, table in ((session_files(admin.settings), "sessions"), (account_files(admin.settings), "accounts")):
        folders = await asyncio.to_thread(subfolders, folder)
        found += await admin.database.read(without_owner, folders, table)
    settled = time.time() - SETTLED
    return [folder for folder in found if folder.stat().st_mtime < settled]


async def do_prune(admin: AdminContext, what: Wanted, progress: ProgressCallback) -> Pruned:
    store, now = admin.database, wire.now_ms()
    pruned = Pruned(what.dry_run)
    if what.sessions_inactive is not None:
        await _silent_sessions(admin, now - what.sessions_inactive * 1000, pruned, progress)
    if what.messages_older is not None:
        await _old_messages(admin, now - what.messages_older * 1000, pruned, progress)
    for folder in await orphans(admin):
        pruned.orphaned_folders += 1
        pruned.file_bytes += await asyncio.to_thread(size_of if what.dry_run else clear, folder)
    if what.dry_run:
        pruned.auth_requests = await store.read(expired, now)
        return pruned
    pruned.auth_requests = await store.write_for((), auth.tidy)
    while size := await store.write_for((), give_back):
        pruned.freed_bytes += size
    return pruned


async def _silent_sessions(admin: AdminContext, before: int, pruned: Pruned, progress: ProgressCallback) -> None:
    found = await admin.database.read(silent, before)
    for index, (account_id, session_id, messages) in enumerate(found):
        progress(index, len(found))
        folder = session_files(admin.settings) / session_id
        if pruned.dry_run:
            pruned.sessions += 1
            pruned.messages += messages
            pruned.file_bytes += await asyncio.to_thread(size_of, folder)
            continue
        while (count := await admin.database.write(account_id, empty_silent, session_id, before)) is not None:
            pruned.messages += count
            if count < PIECE:
                pruned.sessions += 1
                pruned.file_bytes += await asyncio.to_thread(clear, folder)
                break


async def _old_messages(admin: AdminContext, before: int, pruned: Pruned, progress: ProgressCallback) -> None:
    last = await admin.database.read(_last_row)
    after: int | None = 0
    while after is not None:
        progress(after, last)
        rows, after = await admin.database.read(old, after, before)
        if rows and not pruned.dry_run:
            await admin.database.write_for((), drop, rows, before)
        pruned.messages += len(rows)


def _last_row(tx: ReadTransaction) -> int:
    return int(tx.fetch_all("SELECT ifnull(max(rowid), 0) FROM messages")[0][0])


async def regularly(admin: AdminContext) -> None:
    """What the settings ask for, every day; ends at once if they ask for nothing."""
    settings = admin.settings
    what = Wanted(settings.prune_sessions_inactive, settings.prune_messages_older)
    if what.sessions_inactive is None and what.messages_older is None:
        return
    while True:
        try:
            log.info("pruned: %s", wire.encode(await do_prune(admin, what, lambda done, of: None)).decode())
        except Exception:
            log.exception("prune")
        await asyncio.sleep(EVERY)


requests = {"prune": AdminRequest(Wanted, Pruned, do_prune)}
