"""Requests that `doctor` announces to the running server and then sends to it through its public URL."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

HEADER: Final = b"x-happy-echo"
PROBES_MAX: Final = 16
PROXY_HEADERS: Final = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


class Probes:
    """Words that an operator's command announced, and the requests to /health that carried them."""

    def __init__(self) -> None:
        self._expected: dict[str, tuple[str, dict[str, str]] | None] = {}

    def expect(self, word: str) -> None:
        """A request with this word will come. The oldest words are forgotten."""
        self._expected[word] = None
        while len(self._expected) > PROBES_MAX:
            del self._expected[next(iter(self._expected))]

    def receive(self, scope: Scope) -> None:
        """Keep the sender's address and the headers that proxies change, if the request carries an announced word."""
        if not self._expected:
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        word = headers.get(HEADER)
        if word in self._expected:
            kept = {name.decode(): headers[name] for name in PROXY_HEADERS if name in headers}
            self._expected[word] = ((scope["client"] or ("",))[0], kept)

    def take(self, word: str) -> tuple[str, dict[str, str]] | None:
        """What came with the word; it is forgotten then."""
        return self._expected.pop(word, None)
