"""Whether a URL leads to this server: `doctor` announces a word, sends it to the URL, and asks what arrived.

POST   /admin/api/probes         announce the word that a request to /health will carry
GET    /admin/api/probes/:word   what arrived with the word; it is forgotten then
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from happy_light.domains.probes import Probes
from happy_light.errors import ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing, Success


class Prober(Protocol):
    """Announces words to the running server and asks it what arrived with them; used on any thread."""

    def announce(self, word: str) -> None:
        """Announce a word."""

    def result(self, word: str) -> ProbeResult:
        """Return what arrived with it."""
        ...


NO_SERVER: Final = ErrorResponse(409, "No server runs that a request could reach")


class Probe(Incoming):
    """POST /admin/api/probes: what the request to /health carries in the header x-happy-echo."""

    word: str


class ProbeResult(Outgoing):
    """The request as it arrived: the sender's address and the headers that proxies change, in lower case."""

    arrived: bool
    address: str = ""
    headers: dict[str, str] = {}


async def post(request: Request[Probe, None]) -> Success:
    """Announce a probe."""
    _probes(request).expect(request.body.word)
    return Success()


async def get(request: Request[None, None]) -> ProbeResult:
    """Return what arrived."""
    return result_of(_probes(request).take(request.path["word"]))


def result_of(seen: tuple[str, dict[str, str]] | None) -> ProbeResult:
    """Return what arrived (an address and headers), None for nothing."""
    return ProbeResult(False) if seen is None else ProbeResult(True, seen[0], seen[1])


def _probes(request: Request[Any, None]) -> Probes:
    if not request.context.serving:
        raise ApiError(NO_SERVER)
    return request.context.probes


routes = [
    Route("POST", "/admin/api/probes", post, body=Probe, errors=[NO_SERVER], public=True),
    Route("GET", "/admin/api/probes/:word", get, answer=ProbeResult, errors=[NO_SERVER], public=True),
]
