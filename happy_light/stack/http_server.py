"""The HTTP server: listening sockets, TLS, and the end of idle connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.types import ASGIApp

from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.stack.http_connection import Connections, HttpConnection

BACKLOG: Final = 1024
KEEP_ALIVE: Final = 75.0  # s that a connection may wait for its next request; axios and proxies keep one for a minute
_GRACE: Final = 60.0  # s for requests under way, never reached: the server cuts connections off before


class Serving(Connections):
    """What a server listens on, and the connections that it has. `tls` is None for plain HTTP."""

    def __init__(self, sockets: list[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.sockets = sockets
        self.tls = tls
        self.keep_alive = KEEP_ALIVE


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings; None for plain HTTP. Raises OperatorError for an unfit certificate."""
    if not (settings.tls_cert and settings.tls_key):
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # a websocket over HTTP/2 is not what the clients speak
    try:
        # Without a password OpenSSL would ask on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as error:  # ssl.SSLError too, which has a reason like KEY_VALUES_MISMATCH
        why = str(getattr(error, "reason", "") or error.strerror).replace("_", " ").lower()
        if "pem lib" in why:
            why = "they are no PEM files"
        raise OperatorError(
            f"TLS does not work with the certificate {settings.tls_cert} and the key {settings.tls_key}: {why}."
        ) from error
    return context


async def serve(app: ASGIApp, serving: Serving, until: Callable[[], Awaitable[None]]) -> None:
    """Answer until `until` returns; then close the connections that are idle and let requests under way end."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: HttpConnection(app, serving), sock=listener, backlog=BACKLOG, ssl=serving.tls)
        for listener in serving.sockets
    ]
    sweep = _Sweep(serving)
    try:
        await until()
    finally:
        sweep.timer.cancel()
        for server in servers:
            server.close()
        serving.end()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await serving.emptied()
        finally:
            serving.cancel_requests()


class _Sweep:
    """Closes connections that wait for their next request for too long, up to a tenth later than they should be."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        self._start_timer()

    def _start_timer(self) -> None:
        self.timer = self._loop.call_later(self._serving.keep_alive / 10, self._close_idle)

    def _close_idle(self) -> None:
        self._start_timer()
        limit = self._loop.time() - self._serving.keep_alive
        for connection in [each for each, since in self._serving.idle.items() if since <= limit]:
            connection.close()
