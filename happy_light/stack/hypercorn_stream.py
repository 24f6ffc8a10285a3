"""One request and its answer below Hypercorn's HTTP/1.1, in the place of its HTTPStream.

That has a queue, a coroutine and an event object for each piece of a body. Here a body that has arrived is given to the
application as a whole, and an answer in one piece is written at once with its head.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from starlette.types import ASGIApp, Message, Scope

from happy_light.stack import http1

_WAITING_MAX: Final = 256 * 1024  # bytes of a body that wait for the application, before reading waits
_JOINED_MAX: Final = 64 * 1024  # bytes of a piece that is copied, to be written together with the head
_BODILESS: Final = frozenset((204, 304))

ARRIVED: Final = "happy_light.arrived"
"""An ASGI extension: the function `RequestStream.take_arrived`."""

Headers = list[tuple[bytes, bytes]]


class Answering(Protocol):
    """The connection of a request, seen from the request."""

    async def send_events(self, *events: Any, last: bool) -> None:
        """Write events of http1.events; `last` is whether the answer ends with them."""

    async def end_stream(self) -> None:
        """Go on with the next request, or close the connection."""


class RequestStream:
    """A request from its head until it is answered."""

    __slots__ = (
        "_arrived", "_body", "_config", "_connection", "_end_arrived", "_end_received", "_head", "_method", "_room",
        "_size", "_status", "closed",
    )  # fmt: skip
    idle = False

    def __init__(self, connection: Answering, config: Config, method: str) -> None:
        self.closed = False
        """Whether the client has its answer, or has left."""
        self._connection = connection
        self._config = config
        self._method = method
        self._body: list[bytes] = []  # what has arrived and was not received yet
        self._size = 0  # bytes of it
        self._end_arrived = self._end_received = False
        self._arrived: asyncio.Future[None] | None = None  # waited for by the application
        self._room: asyncio.Future[None] | None = None  # waited for by the connection
        self._status = 0  # of the answer, 0 until the application begins it
        self._head: Headers | None = None  # of the answer, until it is sent

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application answer; with 500 if it sends nothing. An answer that it does not end is cut off."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            await self._config.log.exception("Error in ASGI Framework")
        finally:
            if not self.closed:
                if not self._status or self._head is not None:
                    self._status, self._head = 500, [(b"content-length", b"0"), (b"connection", b"close")]
                    await self._send(b"", more=False)
                else:
                    await self._connection.end_stream()

    # ------------------------------------------------------------------------------ for the connection
    async def handle(self, event: StreamEvent) -> None:
        """Take a piece of the body, its end, or the end of the stream; wait while too much has not been received."""
        if isinstance(event, Body):
            self._body.append(event.data)
            self._size += len(event.data)
        elif isinstance(event, EndBody):
            self._end_arrived = True
        elif isinstance(event, StreamClosed):
            self.closed = True
            _wake(self._room)
        _wake(self._arrived)
        if self._size > _WAITING_MAX and not self.closed:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    # ----------------------------------------------------------------------------- for the application
    async def receive(self) -> Message:
        """Return what has arrived of the body; behind its end, that the client has its answer or has left."""
        while not self._body and not self.closed and (self._end_received or not self._end_arrived):
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        if not self._body and (self._end_received or not self._end_arrived):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take(), "more_body": not self._end_received}

    def take_arrived(self) -> bytes | None:
        """Return the body if it has arrived whole, as most have when the application begins; else None.

        That needs no timer. Once it was returned, `receive` tells only when the client has left.
        """
        return self._take() if self._end_arrived and not self._end_received else None

    def _take(self) -> bytes:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._size = 0
        _wake(self._room)
        self._end_received = self._end_arrived
        return body

    async def send(self, message: Message) -> None:
        """Send a part of the answer. Its head waits for the first piece of the body, as ASGI wants it."""
        if self.closed:
            return
        if not self._status and message["type"] == "http.response.start":
            self._status, self._head = int(message["status"]), list(message.get("headers", ()))
        elif self._status and message["type"] == "http.response.body":
            await self._send(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} cannot be sent now")

    async def _send(self, body: bytes, more: bool) -> None:
        events: list[Any] = []
        if self._head is not None:
            headers = self._head + self._config.response_headers("h11")
            events.append(http1.events.Response(headers=headers, status_code=self._status))
            self._head = None
        if body and self._status not in _BODILESS and self._method != "HEAD":
            if len(body) > _JOINED_MAX and events:
                await self._connection.send_events(*events, last=False)
                events.clear()
            events.append(http1.events.Data(data=body))
        if not more:
            events.append(http1.events.EndOfMessage())
        await self._connection.send_events(*events, last=not more)
        if not more:
            await self._connection.end_stream()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
