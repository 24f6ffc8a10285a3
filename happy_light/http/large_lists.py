"""Lists that may be too large to be in memory as a whole: read from the database in pieces, as the client reads them.

The keys of the rows are found at once, and so is what comes behind the list. A row that is deleted meanwhile is left
out, and one that is changed is sent as it is then: the update of that change follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from happy_light import json_codec
from happy_light.errors import ApiError, ServiceUnavailable
from happy_light.http.body import ClientGone
from happy_light.http.request import Request
from happy_light.http.responses import JSON
from happy_light.store import ReadTransaction, SizeLimit

ROW_MAX: Final = 16 * 1024  # bytes in the large columns of a row, for a list to be read at once
PIECE_MAX: Final = 1024 * 1024  # bytes in the large columns of a piece; one row may have more


class LargeList(msgspec.Struct, frozen=True):
    """The answer `{name: [rows], **others}`, whose rows are not read yet, but for their keys.

    `size(tx, account_id, key)` returns the bytes in the large columns of a row, 0 if there is none, and
    `read(tx, account_id, keys)` some rows, as `fetch_json` does. Both look at the account's own rows only.
    """

    name: str
    keys: list[Any]
    size: Callable[[ReadTransaction, str, Any], int]
    read: Callable[[ReadTransaction, str, list[Any]], list[Any]]
    others: dict[str, Any]


def small_rows(tx: ReadTransaction, *large: str) -> SizeLimit:
    """Return the limit for `fetch_small_json`: ROW_MAX bytes in the large columns of a row."""
    return SizeLimit(tx.size_of(*large), ROW_MAX)


async def respond(request: Request[Any, Any], found: LargeList) -> Response:
    """Return the answer that sends the list; its first piece is read already.

    Raises ApiError (429) if the account has too much in memory.
    """
    response = _ListResponse(request, found)
    await response.read_piece()
    return response


class _ListResponse(Response):
    """Sends the list. The memory of its largest piece so far is counted as the account's until it is sent."""

    def __init__(self, request: Request[Any, Any], found: LargeList) -> None:
        super().__init__(None, 200, media_type=JSON)
        del self.headers["content-length"]
        self._request = request
        self._found = found
        self._reserved = 0
        self._piece = b""
        self._next = 0
        """Where in the keys the piece after this one starts."""

    async def read_piece(self) -> None:
        """Read the next piece. Raises ApiError (429) if the account has too much in memory."""
        request = self._request
        read = request.context.database.read
        rows, self._next = await read(_read_piece, request.account_id, self._found, self._next)
        self._piece = json_codec.encode(rows)[1:-1]
        if len(self._piece) > self._reserved:
            request.reserve_answer(len(self._piece) - self._reserved)
            self._reserved = len(self._piece)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI). Raises ClientGone, which ends the connection, if the rest cannot be sent."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            left = asyncio.ensure_future(_wait_until_left(receive))  # `send` does not say that nobody is there
            try:
                await self._send_list(send, left)
            finally:
                left.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _send_list(self, send: Send, left: asyncio.Future[None]) -> None:
        """Send the pieces until `left` is done, which says that the client has left."""
        found = self._found
        await _send(send, b"{" + json_codec.encode(found.name) + b":[")
        begun = False
        while True:
            piece, self._piece = self._piece, b""
            if piece:
                await _send(send, b"," + piece if begun else piece)
                begun = True
            del piece
            if self._next == len(found.keys):
                break
            if left.done():
                raise ClientGone
            try:
                await self._request.check_still_signed_in()
                await self.read_piece()
            except (ApiError, ServiceUnavailable) as error:
                raise ClientGone from error
        others = json_codec.encode(found.others)[1:]
        await _send(send, (b"]," if found.others else b"]") + others)


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _read_piece(tx: ReadTransaction, account_id: str, found: LargeList, start: int) -> tuple[list[Any], int]:
    """Return the rows of one piece, and where in the keys the next one starts."""
    if not found.keys:
        return [], 0
    size = 0
    for end in range(start, len(found.keys)):
        size += found.size(tx, account_id, found.keys[end])
        if size > PIECE_MAX and end > start:
            return found.read(tx, account_id, found.keys[start:end]), end
    return found.read(tx, account_id, found.keys[start:]), len(found.keys)
