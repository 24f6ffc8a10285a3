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
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.utils import parse_socket_addr

from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.pace import Pace
from happy_light.stack.accepting import Listener, Room
from happy_light.stack.hypercorn_protocol import HttpProtocol, MakeProtocol

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
_RECEIVE_MAX: Final = 64 * 1024  # bytes that are taken from a connection at once
_HELD_MAX: Final = 64 * 1024  # bytes of answers that wait for the rest, or for the client to read them
_WRITE_MAX: Final = 256 * 1024  # bytes of a large answer that are written at once
_LOOK_EVERY: Final = 5.0  # s between two looks at how much a client has read
_CLOSE_MAX: Final = 30.0  # s that a client gets to read the end of what it was sent
SIDE_CONNECTIONS_MAX: Final = 64  # connections of the admin API, and of the metrics


class Serving(Config):
    """Hypercorn's settings, and the connections of the server that has them."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Room(SIDE_CONNECTIONS_MAX)
        """The connections that are open, websockets included."""
        self.transports: set[asyncio.WriteTransport] = set()
        self.idle: dict[Idleness, None] = {}
        """The connections without a request, the one that has had none for longest first."""
        self.ending = False
        """Whether a connection is closed as soon as it is idle."""
        self.tls: ssl.SSLContext | None = None
        """TLS of the connections that are made from now on."""
        self._dated = 0
        self._every_answer: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Return what every answer has, the date: made once a second."""
        second = int(time.time())
        if second != self._dated:
            self._dated, self._every_answer = second, super().response_headers(protocol)
        return self._every_answer

    def load_tls(self) -> None:
        """Read the certificate and the key. Raises OperatorError if they do not work, and keeps the ones before."""
        try:
            self.tls = self.create_ssl_context()
        except OSError as error:  # ssl.SSLError too, which has a reason like KEY_VALUES_MISMATCH
            why = str(getattr(error, "reason", "") or error.strerror).replace("_", " ").lower()
            if "pem lib" in why:
                why = "they are no PEM files"
            raise OperatorError(
                f"TLS does not work with the certificate {self.certfile} and the key {self.keyfile}: {why}."
            ) from error

    def drop_idle(self) -> bool:
        """Cut off the connection that has been idle for longest; return whether there was one."""
        for idleness in self.idle:
            idleness.cut()
            return True
        return False


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
        config.load_tls()
    return config


async def serve(app: Any, config: Serving, until: Callable[[], Awaitable[None]]) -> None:
    """Answer until `until` returns; then close the connections that are idle and let requests under way end."""
    loop = asyncio.get_running_loop()
    context = WorkerContext(None)
    application = ASGIWrapper(app)
    connections: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: Callable[[], None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        await Connection(application, loop, config, context, reader, writer, closed).run()

    sockets = config.create_sockets()
    config.room.make_room.insert(0, config.drop_idle)
    listeners = [
        Listener(listening, connected, config.room, lambda: config.tls, config.ssl_handshake_timeout)
        for listening in (sockets.secure_sockets if config.ssl_enabled else sockets.insecure_sockets)
    ]
    try:
        await until()
    finally:
        await context.terminated.set()
        for listener in listeners:
            listener.close()
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
        closed: Callable[[], None],
    ) -> None:
        self.config = config
        self.loop = loop
        self._app = app
        self._context = context
        self._reader = reader
        self._writer = writer
        self._closed = closed
        self._idleness = Idleness(self)
        self._protocol: HttpProtocol | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._written = 0  # bytes
        self._pace: Pace | None = None  # of the answer that the client is waited for to read
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
            if not self._given_away:
                self._closed()
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
                self._pace = None
                self._idleness.begin()
            else:
                self._idleness.end()
        elif isinstance(event, Closed):
            self.flush()
            if self._protocol is not None:
                await self._protocol.end()
            await self._close()
        elif isinstance(event, RawData) and event.data:
            await self.send(event.data, False)

    async def send(self, data: bytes, last: bool) -> None:
        """Write a piece of an answer; what is large goes out as it is read, since the transport would copy it.

        The `last` piece is written at once, unless others wait; those wait for what comes in the same step of the loop.
        """
        if self._writer.is_closing():
            if self._protocol is not None:
                await self._protocol.handle(Closed())
            return
        if not data:
            return
        if len(data) > _HELD_MAX:
            self.flush()
            view = memoryview(data)
            for start in range(0, len(data), _WRITE_MAX):
                await self._drain()
                if self._writer.is_closing():
                    return
                self._write(view[start : start + _WRITE_MAX])
            return
        if not self._held:
            if last and self._writer.transport.get_write_buffer_size() <= _HELD_MAX:
                self._write(data)
                return
            self.loop.call_soon(self.flush)
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size + self._writer.transport.get_write_buffer_size() > _HELD_MAX:
            self.flush()
            await self._drain()

    async def _drain(self) -> None:
        """Wait while the client does not read; cut it off if it reads too slowly."""
        transport = self._writer.transport
        if transport.get_write_buffer_size() <= _HELD_MAX and not transport.is_closing():
            return
        pace = self._pace = self._pace or Pace()
        try:
            while not transport.is_closing():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(pace.deadline, self.loop.time() + _LOOK_EVERY)):
                        await self._writer.drain()
                    return
                pace.extend(self._written - transport.get_write_buffer_size())
                if pace.is_over:
                    log.info("a client does not read its answer; its connection is closed")
                    transport.abort()
        except (ConnectionError, RuntimeError):
            pass
        if self._protocol is not None:
            await self._protocol.handle(Closed())

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._held_size = 0
            self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        self._writer.write(data)

    def give(self, make: MakeProtocol) -> bool:
        """Give the connection to the protocol that `make` returns for its writer; return whether it was possible.

        The protocol has to keep the writer: a StreamWriter closes its connection when nobody refers to it.
        """
        self.flush()
        transport = self._writer.transport
        if transport.is_closing():  # the client has left meanwhile
            return False
        streams = transport.get_protocol()
        self._given_away = True
        transport.set_protocol(make(self._writer, self._closed))
        streams.connection_lost(None)  # ends `run`
        return True

    def abort(self) -> None:
        """Close it at once."""
        self._writer.transport.abort()

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
        with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):  # OSError: TimeoutError, too
            self._writer.close()
            async with asyncio.timeout(_CLOSE_MAX):
                await self._writer.wait_closed()
        self._writer.transport.abort()


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
        self._idle.pop(self, None)
        self._idle[self] = None
        if self._connection.config.ending:
            self.expire()
        elif self._timer is None:
            self._check()

    def end(self) -> None:
        """Count the connection as busy."""
        self._since = None
        self._idle.pop(self, None)

    def forget(self) -> None:
        """Stop the timer: the connection has ended."""
        self._idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def cut(self) -> None:
        """Close the connection without waiting for anything."""
        self._idle.pop(self, None)
        self._connection.abort()

    def expire(self) -> None:
        """Close the connection."""
        self._idle.pop(self, None)
        if self._end is None:  # a task of its own, since the connection's may be at its end
            self._end = self._connection.loop.create_task(self._connection.close_idle())

    def _check(self) -> None:
        loop, limit = self._connection.loop, self._connection.config.keep_alive_timeout
        left = limit if self._since is None else self._since + limit - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check)
        else:
            self.expire()
