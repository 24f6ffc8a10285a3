"""Backups on demand: make one in the folder of the scheduled ones, list what is there, download it.

GET    /admin/api/backups         the archives in the folder, the newest first
POST   /admin/api/backups         make one now
GET    /admin/api/backups/:name   download one
"""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import Annotated, Any, Final

from starlette.responses import Response

from happy_light import clock, store, threads
from happy_light.admin import server_id
from happy_light.admin.progress import NDJSON, Failed, Progress, ProgressCallback, stream
from happy_light.blobs import file_response
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.domains.backup_state import BackupResult
from happy_light.errors import ApiError, ErrorResponse, OperatorError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

log = logging.getLogger(__name__)

NO_ARCHIVE: Final = ErrorResponse(404, "There is no backup of this server with this name")
BUSY: Final = ErrorResponse(409, "A backup is being made already")


# -------------------------------------------------------------------------------------------- wire
class BackupRequest(Incoming):
    """POST /admin/api/backups: whether the master secret is in the archive, without which it restores no sign-ins."""

    secret: bool = True


class Archive(Outgoing):
    """A backup: its file name, size in bytes, and time in ms."""

    name: str
    bytes: int
    made_at: int


class Archives(Outgoing):
    """GET /admin/api/backups: the newest first. `every`: s between scheduled ones, null for none.

    `has_database` and `has_files`: whether archives contain them; those in PostgreSQL and in a bucket are not.
    """

    folder: str
    every: int | None
    has_database: bool
    has_files: bool
    archives: list[Archive]


class BackupDone(Outgoing):
    """The last line of a backup."""

    result: Archive


# -------------------------------------------------------------------------------------- operations
def list_archives(settings: Settings) -> Archives:
    """Return the archives of this server in the folder. Raises OperatorError."""
    from happy_light.admin import backup_folder

    with store.open_for_reading(settings) as tx:
        id = server_id.read(tx)
    try:
        archives = [
            Archive(path.name, path.stat().st_size, int(1000 * backup_folder.made_at(path)))
            for path in reversed(backup_folder.archives(settings.backups, id))
        ]
    except OSError as error:
        text = f"The folder of the backups cannot be read: {error}. Look at its modes, or try again"
        raise OperatorError(text) from error
    return Archives(
        str(settings.backups), settings.backup_every, settings.postgres is None, settings.bucket is None, archives
    )


async def make(context: ServerContext, with_secret: bool, progress: ProgressCallback) -> Archive:
    """Make a backup. Its thread ends soon after a cancellation. Raises ApiError BUSY and OperatorError."""
    from happy_light.admin import backup_folder

    if context.backups.running:
        raise ApiError(BUSY)
    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def report(done: int, total: int) -> None:
        if stopped.is_set():
            raise InterruptedError("The reader has gone")
        loop.call_soon_threadsafe(progress, done, total)

    settings, context.backups.running = context.settings, True
    try:
        made = await threads.run(backup_folder.back_up_to_folder, settings, settings.backups, with_secret, None, report)
    finally:
        stopped.set()
        context.backups.running = False
    context.backups.record(BackupResult(clock.now_ms(), str(made.archive), None))
    log.info("backup %s is made", made.archive)
    size = (await threads.run(made.archive.stat)).st_size
    return Archive(made.archive.name, size, int(1000 * backup_folder.made_at(made.archive)))


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Archives:
    """List the backups."""
    return await threads.run(list_archives, request.context.settings)


async def post(request: Request[BackupRequest, None]) -> Response:
    """Make a backup and report the progress."""
    return stream(partial(make, request.context, request.body.secret))


async def get_archive(request: Request[Any, None]) -> Response:
    """Download a backup."""
    settings, name = request.context.settings, request.path["name"]
    names = {archive.name for archive in (await threads.run(list_archives, settings)).archives}
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    path = settings.backups / name
    answer = await threads.run(file_response.respond, path, "application/gzip", headers) if name in names else None
    if answer is None:
        raise ApiError(NO_ARCHIVE)
    log.info("backup %s is downloaded", path)
    return answer


_PATH = "/admin/api/backups"
routes = [
    Route("GET", _PATH, get, answer=Archives, public=True),
    Route(
        "POST", _PATH, post, body=BackupRequest, answer=Annotated[Progress | Failed | BackupDone, NDJSON],
        public=True,
    ),
    Route(
        "GET", f"{_PATH}/:name", get_archive, answer=Annotated[bytes, "application/gzip"], errors=[NO_ARCHIVE],
        public=True,
    ),
]  # fmt: skip
