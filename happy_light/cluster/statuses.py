"""How the other processes of the server are, as the admin page shows it: asked for only while somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from happy_light.cluster.messages import Message, StatusGiven, StatusWanted

FRESH: Final = 10.0  # s after which a status that was not repeated is left out
KEPT_MAX: Final = 200  # processes whose status is kept


class Statuses:
    """Ask the other processes how they are, and answer them. What a status contains is up to the admin page."""

    def __init__(
        self, id: str, tell_all: Callable[[Message], None], tell_process: Callable[[str, Message], None]
    ) -> None:
        self._id = id
        self._tell_all = tell_all
        self._tell_process = tell_process
        self._given: dict[str, tuple[float, bytes]] = {}
        """By process: when (monotonic s) and what it answered."""
        self.own: Callable[[], bytes] = lambda: b""
        """Returns the status of this process, "" for none."""

    def ask(self) -> list[bytes]:
        """Return what the others have answered lately, in the order of their ids, and ask them again."""
        self._tell_all(StatusWanted(self._id))
        oldest = time.monotonic() - FRESH
        self._given = {process: given for process, given in self._given.items() if given[0] > oldest}
        return [status for _, (_, status) in sorted(self._given.items())]

    def answer(self, wanted: StatusWanted) -> None:
        """Tell another process how this one is."""
        if status := self.own():
            self._tell_process(wanted.asker, StatusGiven(self._id, status))

    def given(self, message: StatusGiven) -> None:
        """Keep the answer of another process."""
        if len(self._given) < KEPT_MAX or message.process in self._given:
            self._given[message.process] = (time.monotonic(), message.status)
