"""Health check (docs/protocol.md, section 12).

GET /health   get whether the server and its database work
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from starlette.responses import Response

from happy_light.context import ServerContext
from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Outgoing

SERVICE: Final = "happy-server"
"""The name of the service that clients expect."""


# -------------------------------------------------------------------------------------------- wire
class BackupHealth(Outgoing):
    """Whether a scheduled backup succeeded, and when it ended, in ISO 8601."""

    ok: bool
    timestamp: str


class Health(Outgoing):
    """Whether the server and its database work; timestamp in ISO 8601."""

    status: Literal["ok", "error"]
    timestamp: str
    service: str
    error: str | msgspec.UnsetType = msgspec.UNSET
    backup: BackupHealth | msgspec.UnsetType = msgspec.UNSET
    """The last scheduled backup, if there was one."""
    missing: list[str] | msgspec.UnsetType = msgspec.UNSET
    """What is away without which the server still works, such as `bucket`."""


# --------------------------------------------------------------------------------------- endpoints
async def get_health(request: Request[None, None]) -> Health | Response:
    """Return whether the server can work; 503 with the reason if its database or its disk do not let it."""
    request.context.probes.receive(request.scope)
    now = _iso(time.time())
    backup = _last_backup(request.context)
    problem = await request.context.health.problem()
    missing = request.context.health.missing or msgspec.UNSET
    if problem:
        return responses.json_response(503, Health("error", now, SERVICE, problem, backup, missing))
    return Health("ok", now, SERVICE, backup=backup, missing=missing)


def _last_backup(context: ServerContext) -> BackupHealth | msgspec.UnsetType:
    last = context.backups.last
    return msgspec.UNSET if last is None else BackupHealth(last.ok, _iso(last.at / 1000))


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


routes = [Route("GET", "/health", get_health, answer=Health, other_responses={503: Health}, public=True)]
