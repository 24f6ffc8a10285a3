"""Whether a URL leads to this very server: `doctor` announces a word here, sends it there, and asks what came."""

from __future__ import annotations

from happy_light.admin.context import AdminContext, AdminRequest, ProgressCallback
from happy_light.domains.probes import Probes
from happy_light.errors import OperatorError
from happy_light.wire import Outgoing


class Word(Outgoing):
    """`echo.await` and `echo.heard`: what the request to the URL carries in its header."""

    word: str


class Heard(Outgoing):
    """The headers of the request as they arrived here, lower-case; `arrived` is false if it did not."""

    arrived: bool
    address: str = ""
    headers: dict[str, str] = {}


async def announce(admin: AdminContext, what: Word, progress: ProgressCallback) -> Heard:
    _probes(admin).expect(what.word)
    return Heard(False)


async def heard(admin: AdminContext, what: Word, progress: ProgressCallback) -> Heard:
    seen = _probes(admin).take(what.word)
    return Heard(False) if seen is None else Heard(True, seen[0], seen[1])


def _probes(admin: AdminContext) -> Probes:
    if admin.context is None:
        raise OperatorError("No server runs.")
    return admin.context.probes


requests = {"echo.await": AdminRequest(Word, Heard, announce), "echo.heard": AdminRequest(Word, Heard, heard)}
