"""Hypercorn as it is used here: its settings, its connections and its websockets.

Connections are our own class, in the place of Hypercorn's TCPServer: idleness costs no task, an answer leaves in
one piece, and a websocket's connection can be handed over. Its HTTP/1.1 (H11Protocol) is subclassed and gets another
parser. Nothing of the library is changed; tests/test_stack_names.py fails when a name that is used changes its meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.stack import http1

BACKLOG: Final = 1024
HEAD_MAX: Final = 64 * 1024  # bytes of a request's head
_RECEIVE_MAX: Final = 64 * 1024  # bytes that are taken from a connection at once
_HELD_MAX: Final = 64 * 1024  # bytes of answers that wait for the rest

TakeOver = Callable[[Callable[[asyncio.StreamWriter], asyncio.Protocol]], Awaitable[bool]]
"""Accept a websocket and give its connection to the protocol that is made for it.

Returns whether it was given: not if the client has left meanwhile. It is the ASGI extension TAKE_OVER.
"""
TAKE_OVER: Final = "happy_light.take_over"


class Serving(Config):
    """Hypercorn's settings, and the connections of the server that has them."""

    def __init__(self) -> None:
        super().__init__()
        self.transports: set[asyncio.WriteTransport] = set()
        self.idle: set[Idleness] = set()
        self.ending = False
        """Whether a connection is closed as soon as it is idle."""


def settings_of(settings: Settings) -> Serving:
    """Return Hypercorn's settings, TLS included. Raises OperatorError for a certificate that does not work."""
    config = Serving()
    config.accesslog = None
    config.errorlog = logging.getLogger("happy_light.hypercorn")
    config.include_server_header = False
    config.keep_alive_timeout = 75  # s; axios and proxies keep connections for a minute
    config.keep_alive_max_requests = 10**9
    config.backlog = BACKLOG
    config.graceful_timeout = 60  # s, never reached: the server cuts connections off before
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
    """Answer until `until` returns; then close the connections that are idle and let requests under way end."""
    loop = asyncio.get_running_loop()
    context = WorkerContext(None)
    application = ASGIWrapper(app)
    connections: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        await Connection(application, loop, config, context, reader, writer).run()

    tls = config.create_ssl_context() if config.ssl_enabled else None
    handshake = None if tls is None else config.ssl_handshake_timeout
    sockets = config.create_sockets()
    servers = [
        await asyncio.start_server(
            connected, backlog=config.backlog, ssl=tls, sock=socket, ssl_handshake_timeout=handshake
        )
        for socket in (sockets.insecure_sockets if tls is None else sockets.secure_sockets)
    ]
    try:
        await until()
    finally:
        await context.terminated.set()
        for server in servers:
            server.close()
        config.ending = True
        for idleness in list(config.idle):
            idleness.expire()
        if connections:
            await asyncio.wait(connections, timeout=config.graceful_timeout)


class Connection:
    """A connection of a client, from its first byte to its last, or until its websocket is given to a protocol."""

    def __init__(
        self,
        app: ASGIWrapper,
        loop: asyncio.AbstractEventLoop,
        config: Serving,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.config = config
        self.loop = loop
        self._app = app
        self._context = context
        self._reader = reader
        self._writer = writer
        self._idleness = Idleness(self)
        self._protocol: HttpProtocol | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._given_away = False

    async def run(self) -> None:
        """Answer its requests until it ends."""
        transport = self._writer.transport
        socket = self._writer.get_extra_info("socket")
        self.config.transports.add(transport)
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            tls = self._writer.get_extra_info("ssl_object") is not None
            async with TaskGroup(self.loop) as tasks:
                self._protocol = HttpProtocol(self, self._app, self._context, tasks, tls, client, server)
                self._idleness.begin()
                await self._read()
        except OSError:
            pass  # the client has left
        finally:
            self.config.transports.discard(transport)
            await self._close()
            self._protocol = None  # which holds this connection: what was received does not wait for the collector

    async def _read(self) -> None:
        assert self._protocol is not None
        while not self._reader.at_eof():
            try:
                data = await self._reader.read(_RECEIVE_MAX)
            except (OSError, ssl.SSLError):
                break
            await self._protocol.handle(RawData(data))
            del data  # else it is kept until the next comes
        await self._protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        """Write what the protocol has for the client: pieces of an answer that come within one step at once."""
        if isinstance(event, Updated):
            if event.idle:
                self._idleness.begin()
            else:
                self._idleness.end()
        elif isinstance(event, Closed):
            self.flush()
            if self._protocol is not None:
                await self._protocol.end()
            await self._close()
        elif self._writer.is_closing():
            if self._protocol is not None:
                await self._protocol.handle(Closed())
        elif isinstance(event, RawData) and event.data:
            if not self._held:
                self.loop.call_soon(self.flush)
            self._held.append(event.data)
            self._held_size += len(event.data)
            if self._held_size > _HELD_MAX:
                self.flush()
                await self._drain()

    async def _drain(self) -> None:
        """Wait while the client does not read."""
        try:
            await self._writer.drain()
        except (ConnectionError, RuntimeError):
            if self._protocol is not None:
                await self._protocol.handle(Closed())

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._held_size = 0
            self._writer.write(data)

    def give(self, make: Callable[[asyncio.StreamWriter], asyncio.Protocol]) -> bool:
        """Give the connection to the protocol that `make` returns for its writer; return whether it was possible.

        The protocol has to keep the writer: a StreamWriter closes its connection when nobody refers to it.
        """
        self.flush()
        transport = self._writer.transport
        if transport.is_closing():  # the client has left meanwhile
            return False
        streams = transport.get_protocol()
        self._given_away = True
        transport.set_protocol(make(self._writer))
        streams.connection_lost(None)  # ends `run`
        return True

    async def close_idle(self) -> None:
        """Close it, while no request is under way."""
        if self._protocol is not None:
            await self._protocol.handle(Closed())
        self._writer.close()

    async def _close(self) -> None:
        self._idleness.forget()
        if self._given_away:
            self._protocol = None
            return
        self.flush()
        with contextlib.suppress(NotImplementedError, OSError, RuntimeError):
            self._writer.write_eof()  # not with TLS
        with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):
            self._writer.close()
            await self._writer.wait_closed()


class Idleness:
    """The end of a connection that waits for its next request for too long; one timer for all its requests."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle = connection.config.idle
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Count the connection as idle from now on."""
        self._since = self._connection.loop.time()
        self._idle.add(self)
        if self._connection.config.ending:
            self.expire()
        elif self._timer is None:
            self._check()

    def end(self) -> None:
        """Count the connection as busy."""
        self._since = None
        self._idle.discard(self)

    def forget(self) -> None:
        """Stop the timer: the connection has ended."""
        self._idle.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def expire(self) -> None:
        """Close the connection."""
        self._idle.discard(self)
        if self._end is None:  # a task of its own, since the connection's may be at its end
            self._end = self._connection.loop.create_task(self._connection.close_idle())

    def _check(self) -> None:
        loop, limit = self._connection.loop, self._connection.config.keep_alive_timeout
        left = limit if self._since is None else self._since + limit - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check)
        else:
            self.expire()


class HttpProtocol(H11Protocol):
    """HTTP/1.1 that stays with it, and whose websockets can be handed over."""

    def __init__(
        self,
        owner: Connection,
        app: ASGIWrapper,
        context: WorkerContext,
        tasks: TaskGroup,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        state = ConnectionState(LifespanState({}))
        super().__init__(app, owner.config, context, tasks, state, tls, client, server, owner.protocol_send)
        self._owner = owner
        self.connection = http1.events.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of an answer; the same as the library's, but for the class of events."""
        if isinstance(event, Body):
            await self._send_h11_event(http1.events.Data(data=event.data))
        elif isinstance(event, EndBody):
            await self._send_h11_event(http1.events.EndOfMessage())
        elif isinstance(event, Response) and event.status_code >= 200:
            headers = [*event.headers, *self.config.response_headers("h11")]
            await self._send_h11_event(http1.events.Response(headers=headers, status_code=event.status_code))
        else:
            await super().stream_send(event)

    async def handle(self, event: Event) -> None:
        """Take what was received, or that the connection has ended."""
        await super().handle(event)
        if isinstance(event, Closed):
            await self.end()

    async def end(self) -> None:
        """Read nothing more; else the next request, if it is here, waits for the end of this answer for ever."""
        self.connection = http1.EndedConnection()  # type: ignore[assignment]
        await self.can_read.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Look for no HTTP/2: no client of ours asks for it over plain HTTP, and odd settings are a traceback."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Begin an answer; the same as the library's, but for the class of websockets."""
        headers = list(request.headers)
        settings = (self.config, self.context, self.task_group, self.ssl, self.client, self.server, self.stream_send)
        if _asks_for_websocket(request.method, headers):
            self.stream = WebSocketStream(self._owner, self.app, *settings, STREAM_ID)  # type: ignore[arg-type]
            assert not isinstance(self.connection, H11WSConnection)
            self.connection = H11WSConnection(self.connection)
        else:
            self.stream = HTTPStream(self.app, *settings, STREAM_ID)
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )


def _asks_for_websocket(method: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a request asks for a websocket (RFC 6455, section 4.2.1)."""
    upgrade = connection = b""
    for name, value in headers:
        if name == b"upgrade":
            upgrade = value.strip().lower()
        elif name == b"connection":
            connection = value.lower()
    tokens = [token.strip() for token in connection.split(b",")]
    return method == b"GET" and upgrade == b"websocket" and b"upgrade" in tokens


class WebSocketStream(WSStream):
    """A websocket until it is accepted; the application can have its connection then."""

    def __init__(self, owner: Connection, app: ASGIWrapper, *args: Any) -> None:
        super().__init__(self._offer, *args)  # type: ignore[arg-type]  # called like an ASGIWrapper
        self._owner: Connection | None = owner
        self._application: ASGIWrapper | None = app

    async def _offer(self, scope: Any, *args: Any) -> None:
        """Run the application; its scope has the extension TAKE_OVER."""
        application, self._application = self._application, None
        assert application is not None
        scope["extensions"][TAKE_OVER] = self._take_over
        try:
            await application(scope, *args)
        finally:  # so that no cycle keeps the stream in memory
            del scope["extensions"][TAKE_OVER]
            self.app = self._owner = None  # type: ignore[assignment]

    async def _take_over(self, make: Callable[[asyncio.StreamWriter], asyncio.Protocol]) -> bool:
        """Accept the websocket and give its connection away; see TakeOver."""
        assert self._owner is not None
        self.handshake.extensions = None  # else permessage-deflate: 100 KB a connection, for ciphertext
        await self.app_send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        self.closed = True  # as far as this class is concerned: it has nothing more to send
        return self._owner.give(make)
