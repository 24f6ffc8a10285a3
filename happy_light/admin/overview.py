"""What the admin page shows at its top: who is connected, what the server does, and what to look at.

GET    /admin/api/live   the overview, and again whenever it has changed, as newline-delimited JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from itertools import zip_longest
from typing import Annotated, Any, Final, cast

import msgspec
from starlette.responses import Response, StreamingResponse

from happy_light import json_codec, threads
from happy_light.admin import stats
from happy_light.admin.finding import Finding
from happy_light.admin.process_status import KINDS, STEP, ProcessStatus, status
from happy_light.admin.progress import NDJSON, STREAM_HEADERS
from happy_light.context import ServerContext
from happy_light.domains.backup_state import BackupResult
from happy_light.errors import ApiError, ErrorResponse, ServiceUnavailable
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction
from happy_light.wire import Outgoing

STREAMS_MAX: Final = 8
EVERY: Final = 1.0  # s between two looks
SLOW_EVERY: Final = 10.0  # s between two looks at what costs more: sizes, and tables without an index for it
REPEAT: Final = 15.0  # s after which the same is sent again, so that both sides notice a lost connection
TOO_MANY_STREAMS: Final = ErrorResponse(429, "The admin page is open too often; close it elsewhere")


class Overview(Outgoing):
    """How the whole server is, all its processes together.

    - `connected`: numbers of sockets by account (of up to 1,000 accounts of each process) and device.
    - `newest_account`: the id of the newest account; it changes, or `accounts` does, when there is another list.
    - `messages`, `calls`: counts of the last hour in steps of `step` s, the newest last.
    - `disk_free`: bytes, null if the database is elsewhere. `backup`: the last one, null if none is known.
    - `warnings`: what a quick look has found, and what the last run of doctor had found.
    """

    processes: list[ProcessStatus]
    sockets: dict[str, int]
    connected: dict[str, dict[str, int]]
    accounts: int
    newest_account: str | None
    sessions_active: int
    machines_online: int
    step: int
    messages: list[int]
    calls: list[int]
    database: stats.Disk
    disk_free: int | None
    backup: BackupResult | None
    warnings: list[Finding]
    doctor_at: int


class _Slow:
    """What is looked up every SLOW_EVERY only."""

    def __init__(self) -> None:
        self.until = 0.0
        self.machines_online = 0
        self.database = stats.Disk(0, 0, 0)
        self.disk_free: int | None = None
        self.warnings: list[Finding] = []


# -------------------------------------------------------------------------------------- operations
def _counts(tx: ReadTransaction) -> tuple[int, str | None, int]:
    """Return the number of accounts, the id of the newest, and the number of active sessions; all from indexes."""
    row = tx.fetch_one(
        "SELECT (SELECT count(*) FROM accounts), (SELECT max(id) FROM accounts), "
        "(SELECT count(*) FROM sessions WHERE active = 1)"
    )
    assert row is not None
    return row[0], row[1], row[2]


def _machines_online(tx: ReadTransaction) -> int:
    row = tx.fetch_one("SELECT count(*) FROM machines WHERE active = 1")
    assert row is not None
    return int(row[0])


def _warnings(context: ServerContext) -> list[Finding]:
    """Return what a quick look finds: at the folder, the space, other servers, and the last backup."""
    from happy_light.admin import doctor_local

    settings = context.settings
    found = list(doctor_local.folder(settings))
    free = _free(context)
    if free is not None:
        found.append(doctor_local.space(free, 0, settings.database.parent))
    if context.health.missing:
        text = f"Not reached at present: {', '.join(context.health.missing)}."
        found.append(Finding("services", "problem", text, "Look at the log, and whether they run."))
    last = context.backups.last
    if last is not None and last.error is not None:
        found.append(Finding("backup", "problem", f"The last backup failed: {last.error}", "Make one now."))
    return [finding for finding in found if finding.level != "ok"]


def _free(context: ServerContext) -> int | None:
    settings = context.settings
    return None if settings.postgres is not None else shutil.disk_usage(settings.database.parent).free


async def _overview(context: ServerContext, slow: _Slow) -> Overview:
    """Return how the server is. Raises ServiceUnavailable."""
    accounts, newest, sessions = await context.database.read(_counts)
    if time.monotonic() >= slow.until:
        slow.machines_online = await context.database.read(_machines_online)
        slow.database = await context.database.read(stats.disk, context.database)
        slow.disk_free = await threads.run(_free, context)
        slow.warnings = await threads.run(_warnings, context)
        slow.until = time.monotonic() + SLOW_EVERY
    processes = [status(context)]
    if context.cluster is not None:
        processes += [msgspec.json.decode(each, type=ProcessStatus) for each in context.cluster.statuses.ask()]
    connected: dict[str, dict[str, int]] = {}
    for process in processes:
        for account_id, devices in process.connected.items():
            known_devices = connected.setdefault(account_id, {})
            for device, count in devices.items():
                known_devices[device] = known_devices.get(device, 0) + count
    known = {finding.name for finding in slow.warnings}
    doctor = [finding for finding in cast("list[Finding]", context.doctor.findings) if finding.level != "ok"]
    return Overview(
        processes=processes,
        sockets={kind: sum(process.sockets.get(kind, 0) for process in processes) for kind in KINDS},
        connected=connected,
        accounts=accounts,
        newest_account=newest,
        sessions_active=sessions,
        machines_online=slow.machines_online,
        step=STEP,
        messages=_sum([process.messages for process in processes]),
        calls=_sum([process.calls for process in processes]),
        database=slow.database,
        disk_free=slow.disk_free,
        backup=context.backups.last,
        warnings=[*slow.warnings, *(finding for finding in doctor if finding.name not in known)],
        doctor_at=context.doctor.at,
    )


def _sum(series: list[list[int]]) -> list[int]:
    """Add up counts whose newest are last."""
    backwards = zip_longest(*(reversed(each) for each in series), fillvalue=0)
    return [sum(counts) for counts in backwards][::-1]


async def _lines(context: ServerContext) -> AsyncIterator[bytes]:
    slow, sent, sent_at = _Slow(), b"", 0.0
    context.admin_streams += 1
    try:
        while not context.stopping.is_set():
            with contextlib.suppress(ServiceUnavailable):  # it is repeated
                overview = await _overview(context, slow)
                compared = json_codec.encode([*map(_without_memory, overview.processes), _without_processes(overview)])
                if compared != sent or time.monotonic() - sent_at > REPEAT:
                    yield json_codec.encode(overview) + b"\n"
                    sent, sent_at = compared, time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await context.stopping.wait()
    finally:
        context.admin_streams -= 1


def _without_memory(process: ProcessStatus) -> ProcessStatus:
    """Return the status without what changes all the time."""
    return msgspec.structs.replace(process, memory=0)


def _without_processes(overview: Overview) -> Overview:
    return msgspec.structs.replace(overview, processes=[], disk_free=0, database=stats.Disk(0, 0, 0))


# --------------------------------------------------------------------------------------- endpoints
async def get_live(request: Request[Any, None]) -> Response:
    """Send the overview, and again when it changes."""
    if request.scope["method"] == "HEAD":
        return Response(media_type=NDJSON)
    if request.context.admin_streams >= STREAMS_MAX:
        raise ApiError(TOO_MANY_STREAMS)
    return StreamingResponse(_lines(request.context), media_type=NDJSON, headers=STREAM_HEADERS)


routes = [
    Route(
        "GET", "/admin/api/live", get_live, answer=Annotated[Overview, NDJSON], errors=[TOO_MANY_STREAMS], public=True
    )
]
