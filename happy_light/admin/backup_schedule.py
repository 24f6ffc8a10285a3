"""Backups that the running server makes by itself, as HAPPY_SERVER_LIGHT_BACKUP_EVERY says."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from typing import Final

from happy_light import clock, store, threads
from happy_light.admin import backup_folder, server_id
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.domains.backup_state import BackupResult
from happy_light.errors import OperatorError

log = logging.getLogger(__name__)

RETRY: Final = 3600.0  # s until the next try after a backup that failed, if it would not come sooner
_SLEEP_MAX: Final = 600.0  # s; a computer that slept is noticed after this time


class _StoppedError(Exception):
    """The server stops, so the backup is given up."""


async def run_regularly(context: ServerContext) -> None:
    """Make backups for as long as the server runs. The newest archive in the folder says when the next is due."""
    settings = context.settings
    if settings.backup_every is None:
        return
    due = await threads.run(_first_due, context, settings.backup_every)
    while True:
        left = due - time.time()
        if left > 0:
            await asyncio.sleep(min(left, _SLEEP_MAX))
            continue
        result = await back_up(context)
        context.backups.record(result)
        due = time.time() + (settings.backup_every if result.ok else min(RETRY, settings.backup_every))


async def back_up(context: ServerContext) -> BackupResult:
    """Make a backup now. Its thread ends soon after a cancellation."""
    stopped = threading.Event()
    try:
        return await threads.run(_back_up, context.settings, stopped)
    finally:
        stopped.set()


def _back_up(settings: Settings, stopped: threading.Event) -> BackupResult:
    def progress(done: int, total: int) -> None:
        if stopped.is_set():
            raise _StoppedError

    try:
        made = backup_folder.back_up_to_folder(settings, settings.backups, True, settings.backup_keep or None, progress)
    except (OperatorError, OSError, sqlite3.Error) as error:
        log.error("the scheduled backup failed: %s", error)
        return BackupResult(clock.now_ms(), None, str(error))
    except _StoppedError:
        return BackupResult(clock.now_ms(), None, "The server stopped meanwhile.")
    except Exception as error:
        log.exception("the scheduled backup failed")
        return BackupResult(clock.now_ms(), None, f"An unexpected error: {error}")
    log.info("backup %s, %d old ones deleted", made.archive, len(made.removed))
    return BackupResult(clock.now_ms(), str(made.archive), None)


def _first_due(context: ServerContext, every: int) -> float:
    """Return when (s) the first backup is due, and record the newest archive as the last backup."""
    try:
        with store.open_for_reading(context.settings) as tx:
            found = backup_folder.archives(context.settings.backups, server_id.read(tx))
    except (OperatorError, OSError) as error:
        log.warning("whether there are backups is not known: %s", error)
        return time.time()
    if not found:
        return time.time()
    made_at = backup_folder.made_at(found[-1])
    context.backups.record(BackupResult(int(made_at * 1000), str(found[-1]), None))
    return made_at + every
