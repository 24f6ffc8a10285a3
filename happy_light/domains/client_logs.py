"""What clients under development log, in one place for whoever debugs them (protocol.md section 12).

POST /logs-combined-from-cli-and-mobile-for-simple-ai-debugging   only with the setting for it

Anyone may write, so the file is bounded: it is started anew when it is full, and one older one is kept.
"""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from happy_light import wire
from happy_light.context import ServerContext
from happy_light.errors import FILE_NOT_FOUND, ServiceUnavailable
from happy_light.http import application
from happy_light.http.application import Request, Route
from happy_light.wire import Incoming, Success

PATH = "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging"
ENTRY_MAX = 1024 * 1024  # bytes of one request
FILE_MAX = 10 * 1024 * 1024  # bytes of the file before it is started anew


# -------------------------------------------------------------------------------------------- wire
class Entry(Incoming):
    """What a client logged."""

    timestamp: str
    level: str
    message: str
    source: Literal["mobile", "cli"]
    message_raw_object: Any = msgspec.UNSET
    platform: str | msgspec.UnsetType | None = msgspec.UNSET


class Log:
    """`clients.log` in the data folder: a line of JSON for every entry."""

    def __init__(self, context: ServerContext) -> None:
        self.path = context.settings.data_dir / "clients.log"
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Writes a line; runs on any thread. Raises OSError."""
        received = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = wire.encode({"received": received, **msgspec.to_builtins(entry)}) + b"\n"
        with self._lock:
            if self.path.exists() and self.path.stat().st_size + len(line) > FILE_MAX:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "ab") as file:
                file.write(line)


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[Entry, None]) -> Success | Response:
    if not request.context.settings.debug_log:
        return application.not_found(request.scope)
    entry = _ROUTE.decode_body(await request.read(ENTRY_MAX), request.header(b"content-type"))
    try:
        await asyncio.to_thread(request.context.get(Log).append, entry)
    except OSError as error:
        raise ServiceUnavailable(f"The log cannot be written: {error.strerror}") from error
    return Success()


_ROUTE = Route("POST", PATH, post, body=Entry, errors=[FILE_NOT_FOUND], public=True, streams=True)
routes = [_ROUTE]
