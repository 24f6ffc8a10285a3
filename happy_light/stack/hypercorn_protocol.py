"""HTTP/1.1 of Hypercorn, on connections that are our own class: another parser, and websockets that are given away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState, LifespanState

from happy_light.stack import http1

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
