"""An ASGI application served on a socket of its own beside the public one: the admin API, the metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from happy_light.config import Settings
from happy_light.http.responses import failure
from happy_light.stack import hypercorn_server

ACTIVE_MAX: Final = 8  # requests at a time; more are refused
_STOP_MAX: Final = 0.5  # s until what still runs is cancelled


class SideListener:
    """Serves `app` on a listening socket, without TLS, from `start` to `stop`."""

    def __init__(self, settings: Settings, app: ASGIApp, listener: socket.socket) -> None:
        self._config = hypercorn_server.settings_of(dataclasses.replace(settings, tls_cert=None, tls_key=None))
        self._config.bind = [f"fd://{listener.detach()}"]
        self._app = app
        self._active = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve on the running event loop."""
        self._task = asyncio.create_task(hypercorn_server.serve(self._answer, self._config, self._until_stop))

    async def stop(self) -> None:
        """Close the socket and every connection; requests in flight are cancelled."""
        assert self._task is not None
        self._stopping.set()
        for transport in list(self._config.transports):
            transport.abort()
        await asyncio.wait({self._task}, timeout=_STOP_MAX)
        self._task.cancel()

    async def _until_stop(self) -> None:
        await self._stopping.wait()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self._active += 1
        try:
            if self._active > ACTIVE_MAX:
                await failure(503, "Too many requests at once; try again later")(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._active -= 1
