"""Client logs: entries of clients under development, collected in one file (docs/protocol.md, section 12).

POST /logs-combined-from-cli-and-mobile-for-simple-ai-debugging   append an entry, if the server is set up for it
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from happy_light import threads
from happy_light.errors import FILE_NOT_FOUND, ServiceUnavailable
from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Success

PATH: Final = "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging"
ENTRY_MAX: Final = 1024 * 1024  # bytes of one entry


# -------------------------------------------------------------------------------------------- wire
class LogEntry(Incoming):
    """A log entry of a client."""

    timestamp: str
    level: str
    message: str
    source: Literal["mobile", "cli"]
    message_raw_object: Any = msgspec.UNSET
    platform: str | msgspec.UnsetType | None = msgspec.UNSET


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[LogEntry, None]) -> Success | Response:
    """Append a log entry; without the setting for it the route does not exist."""
    if not request.context.settings.debug_log:
        return responses.not_found(request.scope)
    entry = _ROUTE.decode_body(await request.read(ENTRY_MAX), request.header(b"content-type"))
    try:
        await threads.run(request.context.client_log.append, entry)
    except OSError as error:
        raise ServiceUnavailable(f"The log cannot be written: {error.strerror}") from error
    return Success()


_ROUTE = Route("POST", PATH, post, body=LogEntry, errors=[FILE_NOT_FOUND], public=True, streams=True)
routes = [_ROUTE]
