"""What an operator looks at when something is wrong: doctor, the log, and the settings.

POST   /admin/api/doctor     look for what is wrong
GET    /admin/api/log        the last lines of this process's log
GET    /admin/api/settings   every setting, its value and where it came from
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, Final

from starlette.responses import Response

from happy_light import clock, config, log_setup, threads
from happy_light.admin.finding import Finding
from happy_light.admin.probe import Prober, ProbeResult, result_of
from happy_light.admin.progress import NDJSON, Failed, Progress, ProgressCallback, stream
from happy_light.context import ServerContext
from happy_light.errors import ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Outgoing

BUSY: Final = ErrorResponse(409, "Doctor is running already")
_TIMEOUT: Final = 10.0  # s that the event loop may take to answer the thread of doctor


class DoctorDone(Outgoing):
    """The last line of a run of doctor."""

    result: list[Finding]


class LogLines(Outgoing):
    """GET /admin/api/log: the oldest first, of the process that answered."""

    lines: list[str]
    process: str


class SettingsList(Outgoing):
    """GET /admin/api/settings; secrets are masked."""

    settings: list[config.Entry]


# -------------------------------------------------------------------------------------- operations
class _Prober:
    """Asks this server, on its event loop."""

    def __init__(self, context: ServerContext) -> None:
        self._probes = context.probes
        self._loop = asyncio.get_running_loop()

    def announce(self, word: str) -> None:
        self._loop.call_soon_threadsafe(self._probes.expect, word)

    def result(self, word: str) -> ProbeResult:
        return asyncio.run_coroutine_threadsafe(self._take(word), self._loop).result(_TIMEOUT)

    async def _take(self, word: str) -> ProbeResult:
        return result_of(self._probes.take(word))


async def examine(context: ServerContext, progress: ProgressCallback) -> list[Finding]:
    """Run every check of doctor. Raises ApiError BUSY."""
    findings = await threads.run(_check, context, _Prober(context))
    context.doctor.at, context.doctor.findings = clock.now_ms(), findings
    return findings


def _check(context: ServerContext, prober: Prober) -> list[Finding]:
    from happy_light.admin import doctor_local, doctor_network

    if not context.doctor.running.acquire(blocking=False):
        raise ApiError(BUSY)
    try:
        return [*doctor_local.check(context.settings), *doctor_network.check(context.settings, prober)]
    finally:
        context.doctor.running.release()


# --------------------------------------------------------------------------------------- endpoints
async def post_doctor(request: Request[Any, None]) -> Response:
    """Look for what is wrong."""
    return stream(partial(examine, request.context))


async def get_log(request: Request[None, None]) -> LogLines:
    """Return the last lines of the log."""
    cluster = request.context.cluster
    return LogLines(list(log_setup.recent), "" if cluster is None else cluster.id)


async def get_settings(request: Request[None, None]) -> SettingsList:
    """Return the settings in force."""
    return SettingsList(config.entries(request.context.settings))


routes = [
    Route(
        "POST", "/admin/api/doctor", post_doctor, answer=Annotated[Progress | Failed | DoctorDone, NDJSON], public=True
    ),
    Route("GET", "/admin/api/log", get_log, answer=LogLines, public=True),
    Route("GET", "/admin/api/settings", get_settings, answer=SettingsList, public=True),
]
