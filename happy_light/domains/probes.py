"""Probes of `doctor`: requests to GET /health through the public URL, which show what reaches this server."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

HEADER: Final = b"x-happy-echo"
"""The request header that carries the word of a probe."""
PROBES_MAX: Final = 16
PROXY_HEADERS: Final = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


class Probes:
    """The words of announced probes, and the requests that carried them."""

    def __init__(self) -> None:
        self._announced: dict[str, tuple[str, dict[str, str]] | None] = {}

    def expect(self, word: str) -> None:
        """Announce that a request with this word will come. Beyond PROBES_MAX the oldest word is dropped."""
        self._announced[word] = None
        while len(self._announced) > PROBES_MAX:
            del self._announced[next(iter(self._announced))]

    def receive(self, scope: Scope) -> None:
        """Keep the sender's address and the headers that proxies set, if the request carries an announced word."""
        if not self._announced:
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        word = headers.get(HEADER)
        if word in self._announced:
            kept = {name.decode(): headers[name] for name in PROXY_HEADERS if name in headers}
            self._announced[word] = ((scope["client"] or ("",))[0], kept)

    def take(self, word: str) -> tuple[str, dict[str, str]] | None:
        """Return address and headers (lower-case names) of the request with the word, and drop the word.

        None if no such request came.
        """
        return self._announced.pop(word, None)
