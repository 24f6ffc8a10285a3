"""Whether a URL leads to this very server: `doctor` announces a word here, sends it there, and asks what came."""

from __future__ import annotations

from happy_light.domains import version
from happy_light.errors import StartError
from happy_light.upkeep.desk import Desk, Request, Tell
from happy_light.wire import Out


class Word(Out):
    """`echo.await` and `echo.heard`: what the request to the URL carries in its header."""

    word: str


class Heard(Out):
    """The headers of the request as they arrived here, lower-case; `arrived` is false if it did not."""

    arrived: bool
    address: str = ""
    headers: dict[str, str] = {}


async def announce(desk: Desk, what: Word, tell: Tell) -> Heard:
    _echoes(desk).expect(what.word)
    return Heard(False)


async def heard(desk: Desk, what: Word, tell: Tell) -> Heard:
    seen = _echoes(desk).take(what.word)
    return Heard(False) if seen is None else Heard(True, seen[0], seen[1])


def _echoes(desk: Desk) -> version.Echoes:
    if desk.house is None:
        raise StartError("No server runs.")
    return desk.house.get(version.Echoes)


requests = {"echo.await": Request(Word, Heard, announce), "echo.heard": Request(Word, Heard, heard)}
