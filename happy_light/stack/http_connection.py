"""A connection of an HTTP/1.1 client, from its first byte to its last, or until its websocket gets another protocol.

The parser (http1.py) makes events of bytes and bytes of events; this class moves them between the network and the
application. A request costs one task, and an answer that is there at once one write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Final, cast
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Scope

from happy_light.stack import http1
from happy_light.stack.http1 import events
from happy_light.stack.http_exchange import Exchange, UpgradeExchange, asks_for_websocket

log = logging.getLogger(__name__)

HEAD_MAX: Final = 64 * 1024  # bytes of a request's head
LINGER: Final = 1.0  # s that a client gets to read an answer after which the connection ends in the middle of a request

Header = tuple[bytes, bytes]


class Connections:
    """The connections of one server."""

    def __init__(self) -> None:
        self.transports: set[asyncio.Transport] = set()
        self.idle: dict[HttpConnection, float] = {}
        """Connections without a request, and since when (s of the loop's clock); the longest first."""
        self.ending = False
        """Whether a connection is closed as soon as it is idle."""
        self._requests: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Future[None] | None = None
        self._date = (0, b"")

    def end(self) -> None:
        """Close the connections that are idle, and those that become idle."""
        self.ending = True
        for connection in list(self.idle):
            connection.close()

    async def emptied(self) -> None:
        """Wait until no connection is open and no request under way."""
        while self.transports or self._requests:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def check_emptied(self) -> None:
        """Wake `emptied`, if it waits."""
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def begin_request(self, task: asyncio.Task[None]) -> None:
        """Count a request as under way until its task ends."""
        self._requests.add(task)
        task.add_done_callback(self._end_request)

    def _end_request(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        self.check_emptied()

    def abort(self) -> None:
        """Cut every connection off."""
        for transport in list(self.transports):
            transport.abort()

    def cancel_requests(self) -> None:
        """Cancel the requests that are still under way."""
        for task in self._requests:
            task.cancel()

    def date(self) -> bytes:
        """Return the value of the header Date."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


class HttpConnection(asyncio.Protocol):
    """One connection. It answers its requests one after the other; pipelined ones wait."""

    __slots__ = (
        "_app",
        "_congested",
        "_connections",
        "_drained",
        "_exchange",
        "_linger",
        "_loop",
        "_parser",
        "_reading",
        "_transport",
        "closed",
    )

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser: Any = events.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        self._exchange: Exchange | None = None  # the request that is being answered
        self._reading = True
        self._congested = False
        self._drained: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.closed = False
        """Whether nothing more is read or written."""

    # ------------------------------------------------------------------------------------ the network
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._connections.transports.add(self._transport)
        self._begin_idling()

    def data_received(self, data: bytes) -> None:
        """Read what has arrived (asyncio)."""
        if not self.closed:
            self._parser.receive_data(data)
            self._read()

    def eof_received(self) -> None:
        """Take the end of what the client sends for the end of the connection (asyncio)."""
        if not self.closed:
            self._parser.receive_data(b"")
            self._read()
            self.close()

    def pause_writing(self) -> None:
        """Let answers wait: the client does not read (asyncio)."""
        self._congested = True

    def resume_writing(self) -> None:
        """Let answers go on (asyncio)."""
        self._congested = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything (asyncio)."""
        self._let_go()
        self.resume_writing()
        if self._linger is not None:
            self._linger.cancel()
        self._connections.transports.discard(self._transport)
        self._connections.check_emptied()

    def close(self) -> None:
        """Close the connection, after what was written; the request under way learns that the client is gone."""
        if not self.closed:
            self._let_go()
            self._transport.close()

    def _close_after_answer(self) -> None:
        """Close the connection once the client has had time to read what was written, and drop what it sends.

        The system resets a connection that is closed with bytes unread, and the client might not see the answer.
        """
        transport = self._transport
        if self.closed or not transport.can_write_eof():  # as with TLS
            self.close()
            return
        self.resume_reading()
        self._let_go()
        transport.write_eof()
        self._linger = self._loop.call_later(LINGER, transport.abort)

    def _let_go(self) -> None:
        self.closed = True
        self._connections.idle.pop(self, None)
        self._parser = http1.EndedConnection()  # what was received is not kept
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.disconnect()

    def _begin_idling(self) -> None:
        if self._connections.ending:
            self.close()
        else:
            self._connections.idle[self] = self._loop.time()

    # --------------------------------------------------------------------------------------- reading
    def _read(self) -> None:
        """Handle what was received, up to the next request while one is being answered."""
        while not self.closed:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                self.refuse(error.error_status_hint)
                return
            kind = type(event)
            if kind is events.Request:
                self._begin_exchange(event)
            elif kind is events.Data:
                if self._exchange is not None:
                    self._exchange.add(event.data)
            elif kind is events.EndOfMessage:
                if self._exchange is not None:
                    self._exchange.end_body()
            else:
                if event is h11.PAUSED and self._parser.trailing_data[0]:
                    self.pause_reading()
                return

    def pause_reading(self) -> None:
        """Leave what the client sends next in the network."""
        if self._reading and not self.closed:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if not self._reading and not self.closed:
            self._reading = True
            self._transport.resume_reading()

    def _begin_exchange(self, request: Any) -> None:
        connections = self._connections
        connections.idle.pop(self, None)
        scope = self._scope(request)
        exchange: Exchange
        if asks_for_websocket(scope):
            if (accept := UpgradeExchange.prepare(scope)) is None:
                self.refuse(400)
                return
            exchange = UpgradeExchange(self, scope, accept)
        else:
            exchange = Exchange(self, scope)
        self._exchange = exchange
        connections.begin_request(self._loop.create_task(self._answer(exchange, scope)))

    def _scope(self, request: Any) -> Scope:
        path, _, query = request.target.partition(b"?")
        text = path.decode("ascii")
        transport = self._transport
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        return {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode("ascii").upper(),
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": client[:2] if isinstance(client, tuple) else None,  # a unix socket has none
            "server": server[:2] if isinstance(server, tuple) else None,
            "state": {},
            "extensions": {},
        }

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("%s %s failed", scope.get("method", "websocket"), scope["path"])
        finally:
            if self._exchange is exchange:  # neither answered nor cut off
                self.refuse(500)

    # --------------------------------------------------------------------------------------- writing
    def head(self, status: int, headers: Iterable[Header]) -> bytes:
        """Return the head of an answer. Raises LocalProtocolError if there can be none now."""
        date = (b"date", self._connections.date())
        head: bytes = self._parser.send(events.Response(headers=[*headers, date], status_code=status))
        return head

    def piece(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent. Raises LocalProtocolError."""
        piece: bytes = self._parser.send(events.Data(data=data))
        return piece

    def last_piece(self) -> bytes:
        """Return what ends the answer. Raises LocalProtocolError."""
        piece: bytes = self._parser.send(events.EndOfMessage())
        return piece

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write the pieces of an answer."""
        self._transport.writelines(pieces)

    async def drain(self) -> None:
        """Wait while the client does not read."""
        if self._congested and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained

    def continue_body(self) -> None:
        """Tell a client that waits for it to send the body (RFC 9110, section 10.1.1)."""
        if self._parser.they_are_waiting_for_100_continue:
            self.write([self._parser.send(events.InformationalResponse(headers=[], status_code=100))])

    def refuse(self, status: int) -> None:
        """Answer with a status and nothing else, unless an answer has begun, and close the connection."""
        if self._parser.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            self.write([self.head(status, headers), self.last_piece()])
        self._close_after_answer()

    def answered(self) -> None:
        """Go on with the next request, if there may be one."""
        self._exchange = None
        parser = self._parser
        if self._connections.ending or parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
            self._close_after_answer()
            return
        parser.start_next_cycle()
        self._begin_idling()
        self.resume_reading()
        if parser.trailing_data[0]:
            self._read()

    # ------------------------------------------------------------------------------------ websockets
    def give(self, accept: bytes, make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
        """Accept a websocket and give its connection to the protocol that `make` returns for it.

        `accept` is the value of Sec-WebSocket-Accept. Return False if the client has left meanwhile.
        """
        transport = self._transport
        if self.closed or transport.is_closing():
            return False
        headers = [(b"upgrade", b"WebSocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
        received = self._parser.trailing_data[0]
        self.write([self._parser.send(events.InformationalResponse(headers=headers, status_code=101))])
        self.resume_reading()
        self._exchange = None
        self._let_go()
        self._connections.transports.discard(transport)
        self._connections.check_emptied()
        protocol = make(transport)
        transport.set_protocol(protocol)
        if received:
            self._loop.call_soon(protocol.data_received, received)
        return True
