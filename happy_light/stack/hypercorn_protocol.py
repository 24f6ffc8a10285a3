"""HTTP/1.1 of Hypercorn, on connections that are our own class: another parser, and websockets that are given away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState, LifespanState
from starlette.types import Scope

from happy_light.stack import http1
from happy_light.stack.hypercorn_stream import ARRIVED, RequestStream

HEAD_MAX: Final = 64 * 1024  # bytes of a request's head

MakeProtocol = Callable[[asyncio.StreamWriter, Callable[[], None]], asyncio.Protocol]
"""Makes a protocol for the writer of a connection, and for what it has to call once the connection is lost."""
TakeOver = Callable[[MakeProtocol], Awaitable[bool]]
"""Accept a websocket and give its connection to the protocol that is made for it.

Returns whether it was given: not if the client has left meanwhile. It is the ASGI extension TAKE_OVER.
"""
TAKE_OVER: Final = "happy_light.take_over"


class Owner(Protocol):
    """The connection that a protocol belongs to."""

    @property
    def config(self) -> Config:
        """The settings of Hypercorn."""

    async def protocol_send(self, event: Event) -> None:
        """Write what the protocol has for the client."""

    async def send(self, data: bytes, last: bool) -> None:
        """Write a piece of an answer; `last` is whether the answer ends with it."""

    def give(self, make: MakeProtocol) -> bool:
        """Give the connection away."""


class HttpProtocol(H11Protocol):
    """HTTP/1.1 that stays with it, and whose websockets can be handed over."""

    def __init__(
        self,
        owner: Owner,
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
        self._application = app
        self.connection = http1.events.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)

    async def send_events(self, *events: Any, last: bool) -> None:
        """Write events of an answer; none that cannot be sent behind a bad request."""
        try:
            pieces = [piece for event in events if (piece := self.connection.send(event))]
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
        else:
            await self._owner.send(b"".join(pieces), last)  # a single one is not copied

    async def end_stream(self) -> None:
        """Go on with the next request, or close the connection."""
        await self.stream_send(StreamClosed(STREAM_ID))

    async def handle(self, event: Event) -> None:
        """Take what was received, or that the connection has ended."""
        await super().handle(event)
        if not isinstance(event, RawData):  # Closed, which is slower to ask for: events are of an abstract class
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
        method, version = request.method.decode("ascii").upper(), request.http_version.decode()
        if _asks_for_websocket(request.method, headers):
            settings = (self.config, self.context, self.task_group, self.ssl, self.client, self.server)
            websocket = WebSocketStream(self._owner, self._application, *settings, self.stream_send, STREAM_ID)
            assert not isinstance(self.connection, H11WSConnection)
            self.stream, self.connection = websocket, H11WSConnection(self.connection)
            await websocket.handle(Request(STREAM_ID, headers, version, method, request.target, self.connection_state))
            return
        path, _, query = request.target.partition(b"?")
        stream = RequestStream(self, self.config, method)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": version,
            "method": method,
            "scheme": "https" if self.ssl else "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self.client,
            "server": self.server,
            "extensions": {ARRIVED: stream.take_arrived},
        }
        self.stream = stream  # type: ignore[assignment]
        self.task_group.spawn(stream.run, self._application.app, scope)


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

    def __init__(self, owner: Owner, app: ASGIWrapper, *args: Any) -> None:
        super().__init__(self._offer, *args)  # type: ignore[arg-type]  # called like an ASGIWrapper
        self._owner: Owner | None = owner
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

    async def _take_over(self, make: MakeProtocol) -> bool:
        """Accept the websocket and give its connection away; see TakeOver."""
        assert self._owner is not None
        self.handshake.extensions = None  # else permessage-deflate: 100 KB a connection, for ciphertext
        await self.app_send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        self.closed = True  # as far as this class is concerned: it has nothing more to send
        return self._owner.give(make)
