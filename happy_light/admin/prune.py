"""Delete what nobody needs any more: inactive sessions, old messages, and files that nothing refers to.

Devices that were not seen for a year are signed out, too.

POST   /admin/api/prune   delete it, or with dryRun count what would be deleted
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Annotated, Final

from starlette.responses import Response

from happy_light import clock, json_codec, threads
from happy_light.admin import clock_check, devices, leftovers, stored_files
from happy_light.admin.account_admin import DELETE_BATCH
from happy_light.admin.progress import NDJSON, Failed, Progress, ProgressCallback, ignore_progress, stream
from happy_light.auth.devices import IDLE_MAX
from happy_light.context import ServerContext
from happy_light.domains import auth, sessions
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

INTERVAL: Final = 86_400.0  # s between two runs of what the settings ask for
_SCAN_BATCH: Final = 5_000  # messages looked at in one read


# -------------------------------------------------------------------------------------------- wire
class PruneRequest(Incoming):
    """POST /admin/api/prune: ages in s, null to keep all; `dry_run` only counts."""

    sessions_inactive: int | None = None
    messages_older: int | None = None
    dry_run: bool = False


class Pruned(Outgoing):
    """What was deleted, or would be. `freed_bytes` is how much smaller the database file is."""

    dry_run: bool
    sessions: int = 0
    messages: int = 0
    auth_requests: int = 0
    devices: int = 0
    orphaned_folders: int = 0
    unfinished_uploads: int = 0
    unused_pictures: int = 0
    file_bytes: int = 0
    freed_bytes: int = 0


class PruneDone(Outgoing):
    """The last line of the answer."""

    result: Pruned


MessageKey = tuple[str, int]
"""A message's session and seq."""


# -------------------------------------------------------------------------------------- operations
def inactive_sessions(tx: ReadTransaction, before: int) -> list[tuple[str, str, int]]:
    """Return (account, session, messages) of each session that was not active since `before` (ms)."""
    return [
        (row[0], row[1], row[2])
        for row in tx.fetch_all(
            "SELECT account_id, id, (SELECT count(*) FROM messages m WHERE m.session_id = s.id) "
            "FROM sessions s WHERE active = 0 AND active_at < ?",
            (before,),
        )
    ]


def delete_inactive(tx: Transaction, account_id: str, session_id: str, before: int) -> int | None:
    """Delete a batch of the session's messages, oldest first, and the session with the last one.

    Returns how many messages; None when there is nothing more to do, also because the session became active.
    """
    still = tx.fetch_one(
        "SELECT 1 FROM sessions WHERE id = ? AND account_id = ? AND active = 0 AND active_at < ?",
        (session_id, account_id, before),
    )
    if still is None:
        return None
    count = tx.execute(
        "DELETE FROM messages WHERE session_id = ? AND seq IN "
        "(SELECT seq FROM messages WHERE session_id = ? ORDER BY seq LIMIT ?)",
        (session_id, session_id, DELETE_BATCH),
    )
    if count < DELETE_BATCH:
        sessions.delete(tx, account_id, session_id)
    return count


def next_messages(tx: ReadTransaction, after: MessageKey) -> list[tuple[str, int, int, str]]:
    """Return (session, seq, created_at in ms, account) of the next messages after a key, in the order of keys."""
    return [
        (row[0], row[1], row[2], row[3])
        for row in tx.fetch_all(
            "SELECT m.session_id, m.seq, m.created_at, s.account_id FROM messages m JOIN sessions s "
            "ON s.id = m.session_id WHERE (m.session_id, m.seq) > (?, ?) ORDER BY m.session_id, m.seq LIMIT ?",
            (*after, _SCAN_BATCH),
        )
    ]


def delete_messages(tx: Transaction, keys: list[MessageKey], before: int) -> None:
    """Delete these messages if they are older than `before` (ms)."""
    tx.executemany(
        "DELETE FROM messages WHERE session_id = ? AND seq = ? AND created_at < ?", [(*key, before) for key in keys]
    )


def expired_auth_requests(tx: ReadTransaction, now: int) -> int:
    """Return how many requests to sign in have expired at `now` (ms)."""
    row = tx.fetch_one(
        "SELECT count(*) FROM auth_requests WHERE created_at < ? OR picked_up_at < ?",
        (now - auth.UNANSWERED_LIFETIME, now - auth.PICKED_UP_LIFETIME),
    )
    return 0 if row is None else int(row[0])


async def prune(context: ServerContext, request: PruneRequest, progress: ProgressCallback) -> Pruned:
    """Do what `request` asks for, in batches, so that other writes do not wait long."""
    database, now = context.database, clock.now_ms()
    pruned = Pruned(request.dry_run)
    if request.sessions_inactive is not None:
        await _prune_sessions(context, now - request.sessions_inactive * 1000, pruned, progress)
    if request.messages_older is not None:
        await _prune_messages(context, now - request.messages_older * 1000, pruned, progress)
    await _prune_files(context, pruned)
    await context.devices.flush()  # whatever was seen just now is not idle
    pruned.devices = await devices.forget_idle(context, now - IDLE_MAX, dry_run=request.dry_run)
    if request.dry_run:
        pruned.auth_requests = await database.read(expired_auth_requests, now)
        return pruned
    pruned.auth_requests = await database.write_for((), auth.delete_expired)
    while size := await database.write_for((), database.shrink):
        pruned.freed_bytes += size
    return pruned


async def _prune_files(context: ServerContext, pruned: Pruned) -> None:
    """Delete the files that nothing refers to. Raises OSError."""
    blobs, database = context.blobs, context.database
    for files in await database.read(leftovers.without_owner, await threads.run(leftovers.old_files, blobs)):
        pruned.orphaned_folders += 1
        pruned.file_bytes += files.size
        if not pruned.dry_run:
            await threads.run(blobs.remove_prefix, files.prefix)
    for picture in await database.read(leftovers.not_active, await threads.run(leftovers.old_pictures, blobs)):
        pruned.unused_pictures += 1
        pruned.file_bytes += picture.size
        if not pruned.dry_run:
            await threads.run(blobs.remove, picture.key)
    for file in await threads.run(leftovers.unfinished_uploads, context.settings):
        pruned.unfinished_uploads += 1
        pruned.file_bytes += file.stat().st_size
        if not pruned.dry_run:
            file.unlink(missing_ok=True)


async def _prune_sessions(context: ServerContext, before: int, pruned: Pruned, progress: ProgressCallback) -> None:
    found = await context.database.read(inactive_sessions, before)
    for index, (account_id, session_id, messages) in enumerate(found):
        progress(index, len(found))
        prefix = f"sessions/{session_id}/"
        if pruned.dry_run:
            pruned.sessions += 1
            pruned.messages += messages
            pruned.file_bytes += await stored_files.stored_size(context.blobs, prefix)
            continue
        while (count := await context.database.write(account_id, delete_inactive, session_id, before)) is not None:
            pruned.messages += count
            if count < DELETE_BATCH:
                pruned.sessions += 1
                pruned.file_bytes += await stored_files.delete_stored(context.blobs, prefix)
                break


async def _prune_messages(context: ServerContext, before: int, pruned: Pruned, progress: ProgressCallback) -> None:
    database = context.database
    total = (await database.row_counts(("messages",)))["messages"]
    scanned, after = 0, ("", 0)
    while rows := await database.read(next_messages, after):
        progress(scanned, total)
        scanned, after = scanned + len(rows), rows[-1][:2]
        old = [row for row in rows if row[2] < before]
        if old and not pruned.dry_run:
            accounts = sorted({row[3] for row in old})
            await database.write_for(accounts, delete_messages, [row[:2] for row in old], before)
        pruned.messages += len(old)


async def run_regularly(context: ServerContext) -> None:
    """Delete every INTERVAL what the settings ask for; return at once if they ask for nothing."""
    settings = context.settings
    request = PruneRequest(settings.prune_sessions_inactive, settings.prune_messages_older)
    if request.sessions_inactive is None and request.messages_older is None:
        return
    while True:
        try:
            await prune_if_clock_fits(context, request)
        except Exception:
            log.exception("pruning failed; it is tried again in %d h", INTERVAL // 3600)
        await asyncio.sleep(INTERVAL)


async def prune_if_clock_fits(context: ServerContext, request: PruneRequest) -> None:
    """Prune unless the clock is far ahead of when it was looked at last: then everything would seem old."""
    if await context.database.write_for((), clock_check.jumped_from, clock.now_ms()) is None:
        pruned = await prune(context, request, ignore_progress)
        log.info("pruned: %s", json_codec.encode(pruned).decode())
    else:
        log.error(
            "nothing is pruned: the clock is more than %d days ahead of when it was looked at last; set it, or if it "
            "is right, run `happy-server-light prune` once",
            clock_check.JUMP_MAX // 86_400,
        )


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[PruneRequest, None]) -> Response:
    """Prune and report the progress. Who asks for it knows what time it is."""
    if not request.body.dry_run:
        await request.context.database.write_for((), clock_check.trust)
    return stream(partial(prune, request.context, request.body))


routes = [
    Route(
        "POST", "/admin/api/prune", post, body=PruneRequest, answer=Annotated[Progress | Failed | PruneDone, NDJSON],
        public=True,
    ),
]  # fmt: skip
