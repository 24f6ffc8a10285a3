"""A request and its answer, as an ASGI application sees them, and the beginning of a websocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from starlette.types import Message, Scope
from websockets.utils import accept_key

BODY_HIGH: Final = 256 * 1024  # bytes of a body that wait for the application; then nothing more is read

TakeOver = Callable[[Callable[[asyncio.Transport], asyncio.Protocol]], Awaitable[bool]]
"""Accept a websocket and give its connection to the protocol that is made for it.

Returns whether it was given: not if the client has left meanwhile. It is the ASGI extension TAKE_OVER.
"""
TAKE_OVER: Final = "happy_light.take_over"


class Connection(Protocol):
    """What an exchange needs of its connection; http_connection.py has it."""

    closed: bool

    def pause_reading(self) -> None:
        """Leave what the client sends next in the network."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""

    def continue_body(self) -> None:
        """Tell a client that waits for it to send the body."""

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the head of the answer."""

    def piece(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""

    def last_piece(self) -> bytes:
        """Return what ends the answer."""

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write the pieces of an answer."""

    async def drain(self) -> None:
        """Wait while the client does not read."""

    def answered(self) -> None:
        """Go on with the next request."""

    def refuse(self, status: int) -> None:
        """Answer with a status and nothing else, and close the connection."""

    def give(self, accept: bytes, make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
        """Accept a websocket and give its connection away."""


class Exchange:
    """One request and its answer (ASGI, HTTP)."""

    __slots__ = ("_connection", "_head", "_headless", "_is_complete", "_is_gone", "_pieces", "_size", "_waiter")

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        self._headless = scope["method"] == "HEAD"  # its answers have no body
        self._head: bytes | None = None
        """The head of the answer, which leaves with the first piece of the body; then b""."""
        self._pieces: list[bytes] = []  # of the body, not yet taken
        self._size = 0  # bytes of them
        self._is_complete = False  # whether the whole body has arrived, and its end was not told
        self._is_gone = False
        self._waiter: asyncio.Future[None] | None = None

    # --------------------------------------------------------------------------- from the connection
    def add(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > BODY_HIGH:
            self._connection.pause_reading()
        self._wake()

    def end_body(self) -> None:
        """Take the end of the body."""
        self._is_complete = True
        self._wake()

    def disconnect(self) -> None:
        """Take the end of the connection."""
        self._is_gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -------------------------------------------------------------------------- for the application
    async def receive(self) -> Message:
        """Return what has come of the body, as soon as there is something, and in the end a disconnect.

        One call at a time.
        """
        while not (self._pieces or self._is_complete or self._is_gone):
            self._connection.continue_body()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not (self._pieces or self._is_complete):
            return {"type": "http.disconnect"}
        pieces, self._pieces, self._size = self._pieces, [], 0
        complete, self._is_complete = self._is_complete, False
        if not complete:
            self._connection.resume_reading()
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not complete}

    async def send(self, message: Message) -> None:
        """Send a part of the answer; drop it once the client is gone. Raises LocalProtocolError."""
        connection = self._connection
        if self._is_gone or connection.closed:
            return
        if message["type"] == "http.response.start":
            status = message["status"]
            self._headless = self._headless or status in (204, 304)
            self._head = connection.head(status, message.get("headers", ()))
            return
        assert self._head is not None, "a body without a head"
        pieces = [self._head] if self._head else []
        self._head = b""
        body = message.get("body", b"")
        if body and not self._headless:
            pieces.append(connection.piece(body))
        more = message.get("more_body", False)
        if not more:
            pieces.append(connection.last_piece())
        connection.write(pieces)
        if not more:
            self._is_gone = True
            connection.answered()
        else:
            await connection.drain()


class UpgradeExchange(Exchange):
    """A request for a websocket: the application closes it, which refuses it with 403, or takes the connection over."""

    __slots__ = ("_accept",)

    def __init__(self, connection: Connection, scope: Scope, accept: bytes) -> None:
        """`accept` is what `prepare` returned for the scope, which becomes one of a websocket here."""
        super().__init__(connection, scope)
        self._accept = accept
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "ws" if scope["scheme"] == "http" else "wss"
        scope["extensions"][TAKE_OVER] = self._take_over

    @staticmethod
    def prepare(scope: Scope) -> bytes | None:
        """Return the value of Sec-WebSocket-Accept; None for a handshake that is not one of version 13 (RFC 6455)."""
        headers = dict(scope["headers"])
        key = headers.get(b"sec-websocket-key")
        if scope["http_version"] != "1.1" or key is None or headers.get(b"sec-websocket-version") != b"13":
            return None
        return accept_key(key.decode("latin-1")).encode()

    async def send(self, message: Message) -> None:
        """Refuse the websocket: nothing else can be sent, since accepted ones are taken over."""
        assert message["type"] == "websocket.close", message["type"]
        if not self._connection.closed:
            self._connection.refuse(403)

    async def _take_over(self, make: Callable[[asyncio.Transport], asyncio.Protocol]) -> bool:
        return self._connection.give(self._accept, make)


def asks_for_websocket(scope: Scope) -> bool:
    """Return whether a request asks for a websocket (RFC 6455, section 4.2.1)."""
    upgrade = connection = b""
    for name, value in scope["headers"]:
        if name == b"upgrade":
            upgrade = value.strip().lower()
        elif name == b"connection":
            connection = value.lower()
    if upgrade != b"websocket" or scope["method"] != "GET":
        return False
    return b"upgrade" in [token.strip() for token in connection.split(b",")]
