"""Events and their audience.

An `Update` is numbered by the store (account `seq`) and published only after its commit; an
`Ephemeral` is of the moment and stored nowhere (protocol.md section 14).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from happy_light.wire import Outgoing

Scope = Literal["user", "session", "machine"]


class Audience(NamedTuple):
    """Who hears an event: the account's user-scoped sockets, and those of one session or machine."""

    account_id: str
    scope: Scope = "user"
    id: str = ""

    @classmethod
    def session(cls, account_id: str, session_id: str) -> Audience:
        """That session's sockets and the user-scoped ones."""
        return cls(account_id, "session", session_id)

    @classmethod
    def machine(cls, account_id: str, machine_id: str) -> Audience:
        """That machine's sockets and the user-scoped ones."""
        return cls(account_id, "machine", machine_id)


class UpdateFrame(Outgoing):
    """The payload of the socket event `update`."""

    id: str
    seq: int
    body: msgspec.Struct
    created_at: int


@dataclass(slots=True)
class Update:
    """A change that is on disk. `skip` is the socket that caused it and must not hear its echo."""

    to: Audience
    body: msgspec.Struct
    skip: object | None = None
    frame: UpdateFrame | None = None  # set by the store when it takes the seq


@dataclass(slots=True)
class Ephemeral:
    """A sign of life; lost for whoever is not connected."""

    to: Audience
    body: msgspec.Struct


Event = Update | Ephemeral
