"""Requests to other servers: Expo, GitHub, ElevenLabs, RevenueCat.

Nothing that is sent or answered is logged here, because both carry tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from happy_light import json_codec

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

ANSWER_MAX: Final = 1024 * 1024  # bytes of an answer that are read
TIMEOUT: Final = 10.0  # s that each step of a request may take; callers have deadlines for the whole
CONNECTIONS_MAX: Final = 20


class NoAnswer(Exception):
    """There is no usable answer; the text is the reason in one word."""


class Answer(msgspec.Struct):
    """The answer of another server."""

    status: int
    body: bytes

    def json(self, kind: type[T]) -> T:
        """Return the body as the struct `kind`. Raises NoAnswer."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise NoAnswer("unreadable") from error


class HttpClient:
    """The HTTP client of one server. Its connections are made at the first request."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def request(
        self, method: str, url: str, *, query: Mapping[str, str | int] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None, limit: int = ANSWER_MAX,
    ) -> Answer:  # fmt: skip
        """Send a request, with `body` as JSON unless it is None, and return the answer. Redirects are not followed.

        Raises NoAnswer, also for an answer of more than `limit` bytes.
        """
        import httpx

        if self._client is None:
            limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=5)
            self._client = httpx.AsyncClient(timeout=TIMEOUT, limits=limits)
        sent = {"accept": "application/json", "user-agent": "happy-server-light", **(headers or {})}
        content = None
        if body is not None:
            content, sent["content-type"] = json_codec.encode(body), "application/json"
        read = bytearray()
        try:
            async with self._client.stream(method, url, params=query, content=content, headers=sent) as response:
                async for piece in response.aiter_bytes():
                    read += piece
                    if len(read) > limit:
                        raise NoAnswer("too-large")
                return Answer(response.status_code, bytes(read))
        except httpx.TimeoutException as error:
            raise NoAnswer("timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a header that cannot be sent
            raise NoAnswer("unreachable") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
