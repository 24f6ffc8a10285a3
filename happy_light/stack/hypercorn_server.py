"""Hypercorn as we run it: its settings, and its connections with what costs them much made cheap.

The only file that knows Hypercorn. tests/test_connections.py notices when a name that is used here changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import hypercorn.asyncio
import hypercorn.asyncio.run
import hypercorn.protocol.h11
import hypercorn.protocol.ws_stream
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData

from happy_light import live
from happy_light.config import Settings
from happy_light.errors import OperatorError

BACKLOG: Final = 1024
_HELD_MAX: Final = 64 * 1024  # bytes that wait for the rest of their answer


class Serving(Config):
    """Hypercorn's settings, and the connections that a server has with them."""

    def __init__(self) -> None:
        super().__init__()
        self.transports: set[asyncio.WriteTransport] = set()
        self.idle: set[Idleness] = set()
        self.ending = False
        """Whether whoever becomes idle is closed at once."""


def settings_of(settings: Settings) -> Serving:
    """What Hypercorn is told, TLS included. Raises StartError for a certificate that does not work."""
    config = Serving()
    config.accesslog = None
    config.errorlog = logging.getLogger("happy_light.hypercorn")
    config.include_server_header = False
    config.keep_alive_timeout = 75  # s; axios and proxies keep connections for a minute
    config.keep_alive_max_requests = 10**9
    config.backlog = BACKLOG
    config.websocket_max_message_size = live.PACKET_MAX
    config.graceful_timeout = 60  # s, never reached: the server cuts off before, since this waits for TLS clients
    config.alpn_protocols = ["http/1.1"]  # a WebSocket over HTTP/2 is not what the clients speak
    if settings.tls_cert and settings.tls_key:
        config.certfile, config.keyfile = str(settings.tls_cert), str(settings.tls_key)
        config.keyfile_password = ""  # else OpenSSL asks on the terminal
        try:
            config.create_ssl_context()
        except OSError as error:  # ssl.SSLError too, which has a reason like KEY_VALUES_MISMATCH
            why = str(getattr(error, "reason", "") or error.strerror).replace("_", " ").lower()
            if "pem lib" in why:
                why = "they are no PEM files"
            raise OperatorError(
                f"TLS does not work with the certificate {settings.tls_cert} and the key {settings.tls_key}: {why}."
            ) from error
    return config


async def serve(app: Any, config: Serving, until: Callable[[], Awaitable[None]]) -> None:
    """Answers until `until` returns; connections that wait for a request are closed then."""
    setattr(hypercorn.asyncio.run, "TCPServer", Connection)  # noqa: B010
    # It always agrees to permessage-deflate (its issue 307): 100 KB a connection, for ciphertext.
    setattr(hypercorn.protocol.ws_stream, "server_extensions_handshake", lambda requested, supported: None)  # noqa: B010
    # It goes over to HTTP/2 when plain HTTP asks for it; no client of ours does, and odd settings are a traceback.
    setattr(hypercorn.protocol.h11.H11Protocol, "_check_protocol", _stay_with_http1)  # noqa: B010

    async def until_then() -> None:
        await until()
        config.ending = True
        for idleness in list(config.idle):
            idleness.over()

    await hypercorn.asyncio.serve(app, config, shutdown_trigger=until_then)


async def _stay_with_http1(self: hypercorn.protocol.h11.H11Protocol, request: object) -> None:
    """Looks for nothing in a request's head."""


class Connection(TCPServer):
    """A connection whose idleness costs no task, and whose answers leave in one piece."""

    config: Serving

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.idle_task: Any = Idleness(self)
        self._held: list[bytes] = []
        self._held_size = 0

    async def run(self) -> None:
        transport = self.writer.transport
        self.config.transports.add(transport)
        try:
            await super().run()
        finally:
            self.config.transports.discard(transport)

    async def protocol_send(self, event: Event) -> None:
        """Head and body of an answer come one by one: what comes within one step is written at once."""
        if not isinstance(event, RawData):
            if isinstance(event, Closed):
                self.flush()
            await super().protocol_send(event)
        elif self.writer.is_closing():
            await self.protocol.handle(Closed())
        elif event.data:
            if not self._held:
                self.loop.call_soon(self.flush)
            self._held.append(event.data)
            self._held_size += len(event.data)
            if self._held_size > _HELD_MAX:
                self.flush()
                await super().protocol_send(RawData(b""))  # waits while the client does not read

    def flush(self) -> None:
        """Writes what is held."""
        if self._held:
            self.writer.write(b"".join(self._held))
            self._held.clear()
            self._held_size = 0

    async def _close(self) -> None:
        self.flush()
        try:
            await super()._close()
        finally:
            self.idle_task.forget()


class Idleness:
    """Ends a connection that waits for its next request for too long.

    Hypercorn makes two tasks a request for this; here one timer a connection looks how long it was idle.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle = connection.config.idle
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Task[None] | None = None

    async def restart(self, group: Any, action: Callable[[], Awaitable[None]]) -> None:
        """The connection is idle from now on; `action` is Hypercorn's own way to wait."""
        self._since = self._connection.loop.time()
        self._idle.add(self)
        if self._connection.config.ending:
            self.over()
        elif self._timer is None:
            self._look()

    async def stop(self) -> None:
        """It is busy."""
        self._since = None
        self._idle.discard(self)

    def forget(self) -> None:
        """It has ended."""
        self._idle.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def over(self) -> None:
        """Ends it."""
        self._idle.discard(self)
        if self._end is None:  # a task of its own, since the connection's group may have finished just now
            self._end = self._connection.loop.create_task(self._connection._initiate_server_close())

    def _look(self) -> None:
        loop, limit = self._connection.loop, self._connection.config.keep_alive_timeout
        left = limit if self._since is None else self._since + limit - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self.over()
