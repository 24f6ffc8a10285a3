"""The body of a request: read whole or in pieces, with limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.types import Receive, Scope

from happy_light.errors import BadRequest
from happy_light.pace import Pace
from happy_light.stack.hypercorn_stream import ARRIVED

SIZE_MAX: Final = 100 * 1024 * 1024  # bytes (docs/protocol.md section 1.2)
_DECLARING: Final = frozenset((b"content-length", b"transfer-encoding"))


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is there to answer."""


class BodyReader:
    """Reads the body of one request. `unread`: whether more of it may still arrive."""

    __slots__ = ("_arrived", "_declared", "_receive", "unread")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._arrived: Callable[[], bytes | None] | None = scope.get("extensions", {}).get(ARRIVED)
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        # A request that declares no body has none (RFC 9112, section 6.3), so there is nothing to wait for.
        self.unread = any(name in _DECLARING for name, _ in headers)
        self._declared = next((int(value) for name, value in headers if name == b"content-length"), 0)

    async def read(self, limit: int, on_growth: Callable[[int], None] | None = None) -> bytes:
        """Return the whole body.

        `on_growth` is called with the size so far (bytes) after each piece, and may raise to refuse the rest. Raises
        BadRequest with 413 past `limit` bytes and with 408 when the body arrives too slowly, and ClientGone.
        """
        self._check_size(self._declared, limit)
        body = self._arrived() if self.unread and self._arrived is not None else None
        if body is not None:
            self.unread = False
            self._check_size(len(body), limit)
            if body and on_growth is not None:
                on_growth(len(body))
            return body
        pieces: list[bytes] = []
        size = 0
        pace = Pace()
        try:
            # One timer for the whole body, since a timer costs more than a piece.
            async with asyncio.timeout_at(pace.deadline) as timer:
                while self.unread:
                    piece = await self._next()
                    if not piece:
                        continue
                    size += len(piece)
                    self._check_size(size, limit)
                    pieces.append(piece)
                    if on_growth is not None:
                        on_growth(size)
                    if pace.extend(size):
                        timer.reschedule(pace.deadline)
        except TimeoutError:
            raise _too_slow() from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces, as they arrive. Raises as `read`; the caller's own time does not count."""
        self._check_size(self._declared, limit)
        size = 0
        pace = Pace()
        while self.unread:
            try:
                async with asyncio.timeout_at(pace.deadline):
                    piece = await self._next()
            except TimeoutError:
                raise _too_slow() from None
            if not piece:
                continue
            size += len(piece)
            self._check_size(size, limit)
            pace.extend(size)
            yielded = _now()
            yield piece
            pace.postpone(_now() - yielded)

    async def discard(self) -> None:
        """Read the rest of the body and drop it, because Hypercorn blocks on a connection with much unread.

        Raises BadRequest with 408, and ClientGone.
        """
        async for _ in self.stream(SIZE_MAX):
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.unread = False
            raise ClientGone
        self.unread = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise BadRequest(f"The body is larger than {limit} bytes", 413)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _too_slow() -> BadRequest:
    return BadRequest("The body did not arrive in time", 408)
