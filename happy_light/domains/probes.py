"""Requests that `doctor` announces to the running server and then sends to it through its public URL."""

from __future__ import annotations

from typing import Final

from starlette.types import Scope

HEADER: Final = b"x-happy-echo"
PROBES_MAX: Final = 16
PROXY_HEADERS: Final = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


class Probes:
    """The probes that are expected, by the word that each carries in a header, and what has arrived of them."""

    def __init__(self) -> None:
        self._expected: dict[str, tuple[str, dict[str, str]] | None] = {}

    def expect(self, word: str) -> None:
        """Wait for a request with this word. Only the newest 16 words are kept."""
        self._expected[word] = None
        while len(self._expected) > PROBES_MAX:
            del self._expected[next(iter(self._expected))]

    def receive(self, scope: Scope) -> None:
        """Keep the sender's address and the headers that proxies change, if the request carries an expected word."""
        if not self._expected:
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        word = headers.get(HEADER)
        if word in self._expected:
            kept = {name.decode(): headers[name] for name in PROXY_HEADERS if name in headers}
            self._expected[word] = ((scope["client"] or ("",))[0], kept)

    def take(self, word: str) -> tuple[str, dict[str, str]] | None:
        """Return the address and headers that came with the word, None if none came, and forget the word."""
        return self._expected.pop(word, None)
