"""What clients under development log, in one place for whoever debugs them (protocol.md section 12).

POST /logs-combined-from-cli-and-mobile-for-simple-ai-debugging   only with the setting for it

Anyone may write, so the file is bounded: it is started anew when it is full, and one older one is kept.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from happy_light.errors import FILE_NOT_FOUND, ServiceUnavailable
from happy_light.http import responses
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Success

PATH = "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging"
ENTRY_MAX = 1024 * 1024  # bytes of one request


# -------------------------------------------------------------------------------------------- wire
class Entry(Incoming):
    """What a client logged."""

    timestamp: str
    level: str
    message: str
    source: Literal["mobile", "cli"]
    message_raw_object: Any = msgspec.UNSET
    platform: str | msgspec.UnsetType | None = msgspec.UNSET


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[Entry, None]) -> Success | Response:
    if not request.context.settings.debug_log:
        return responses.not_found(request.scope)
    entry = _ROUTE.decode_body(await request.read(ENTRY_MAX), request.header(b"content-type"))
    try:
        await asyncio.to_thread(request.context.client_log.append, entry)
    except OSError as error:
        raise ServiceUnavailable(f"The log cannot be written: {error.strerror}") from error
    return Success()


_ROUTE = Route("POST", PATH, post, body=Entry, errors=[FILE_NOT_FOUND], public=True, streams=True)
routes = [_ROUTE]
