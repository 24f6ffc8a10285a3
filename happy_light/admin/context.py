"""Where an operator's requests are done, and how they are described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.store import Database

ProgressCallback = Callable[[int, int], None]
"""(done, of): how far a long request is. It never waits and never raises."""


@dataclass
class AdminContext:
    """What a request works on: the parts of a running server, or a store that was opened for one command."""

    settings: Settings
    database: Database
    context: ServerContext | None = None
    """None: no server runs."""
    sign_out: Callable[[str], None] = lambda account_id: None
    """Ends an account's sockets, and forgets that its tokens were good."""


class AdminRequest(NamedTuple):
    """A row of a table of requests: the struct it comes with, the one it answers with, and what does it.

    `do(desk, what, tell)` raises Refused or StartError with a sentence for the operator.
    """

    what: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    do: Callable[[AdminContext, Any, ProgressCallback], Awaitable[Any]]


class Nothing(msgspec.Struct):
    """What a request comes with that needs nothing."""
