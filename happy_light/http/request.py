"""A request, as an endpoint sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from starlette.types import Receive, Scope

from happy_light.auth.authentication import authenticate
from happy_light.context import ServerContext
from happy_light.errors import INVALID_TOKEN, MISSING_AUTHORIZATION, ApiError
from happy_light.http.body import SIZE_MAX, BodyReader

B = TypeVar("B")
Q = TypeVar("Q")


class Request(Generic[B, Q]):
    """One HTTP request. `B` is the struct of its body and `Q` that of its query, None where there is none."""

    __slots__ = (
        "_body_reader",
        "_reserved",
        "_revocations",
        "account_id",
        "body",
        "context",
        "device_id",
        "path",
        "query",
        "scope",
    )

    def __init__(self, context: ServerContext, scope: Scope, receive: Receive, path: dict[str, str]) -> None:
        self.context = context
        self.scope = scope
        self.path = path
        """The parameters of the path, percent-decoded."""
        self.account_id = ""
        """The account of the token; "" until `authenticate`, and on public routes."""
        self.device_id = ""
        """The device of the token, as `account_id`."""
        self.body: B
        self.query: Q
        self._body_reader = BodyReader(scope, receive)
        self._reserved = 0
        self._revocations: int | None = None

    def header(self, name: bytes) -> str | None:
        """Return the first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    async def authenticate(self) -> None:
        """Set `account_id` to the account of the token. Raises ApiError (401)."""
        header = self.header(b"authorization")
        if header is None or not header.startswith("Bearer "):
            raise ApiError(MISSING_AUTHORIZATION)
        tokens = self.context.keys.tokens
        revocations = tokens.revocations
        claims = await authenticate(self.context.database, tokens, header[7:])
        if claims is None:
            raise ApiError(INVALID_TOKEN)
        self.account_id, self.device_id, self._revocations = claims.account_id, claims.device, revocations

    async def read(self, limit: int = SIZE_MAX) -> bytes:
        """Return the whole body.

        Raises BadRequest with 413 past `limit` bytes and with 408 when it arrives too slowly, ApiError with 429 if
        the account has too many bytes of bodies in memory and with 401 if it was signed out meanwhile, ClientGone.
        """
        body = await self._body_reader.read(limit, self._reserve)
        await self.check_still_signed_in()
        return body

    async def stream(self, limit: int = SIZE_MAX) -> AsyncIterator[bytes]:
        """Yield the body in pieces, as they arrive. Raises as `read`, but for the bytes in memory."""
        async for piece in self._body_reader.stream(limit):
            yield piece
        await self.check_still_signed_in()

    @property
    def has_unread_body(self) -> bool:
        """Whether more of the body may still arrive."""
        return self._body_reader.unread

    async def discard_body(self) -> None:
        """Read the rest of the body and drop it. Raises BadRequest with 408, and ClientGone."""
        await self._body_reader.discard()

    def reserve_answer(self, size: int) -> None:
        """Reserve memory for an answer of so many bytes beside the body. Raises ApiError (429) for a GET.

        The answer to a write is never refused, since the write is done. Strangers get no large answers but files.
        """
        limits = self.context.limits
        if size > limits.BODY_FREE and self.account_id:
            (limits.reserve_body if self.scope["method"] == "GET" else limits.hold_body)(self.account_id, size)
            self._reserved += size

    def release(self) -> None:
        """End the reservations of memory, once the request is answered."""
        if self._reserved:
            self.context.limits.release_body(self.account_id, self._reserved)
            self._reserved = 0

    def _reserve(self, size: int) -> None:
        if size > self.context.limits.BODY_FREE:
            self.context.limits.reserve_body(self.account_id, size - self._reserved)
            self._reserved = size

    async def check_still_signed_in(self) -> None:
        """Repeat the authentication if any account or device was signed out meanwhile. Raises ApiError (401)."""
        if self._revocations is not None and self._revocations != self.context.keys.tokens.revocations:
            await self.authenticate()
