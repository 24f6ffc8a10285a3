"""What travels over the bus: updates, ephemeral events and internal messages.

An operation publishes an `Update` in its transaction. The store numbers it (account `seq`) and hands the bus a
`Committed` once it is on disk. An `Ephemeral` has no number and is stored nowhere (docs/protocol.md section 14).
An internal message tells every process of this server something that no client hears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

import msgspec

from happy_light import ids, json_codec
from happy_light.wire import Outgoing

Scope = Literal["user", "session", "machine"]


class Audience(NamedTuple):
    """Who receives an event: the account's user-scoped sockets, and those of one session or machine."""

    account_id: str
    scope: Scope = "user"
    id: str = ""

    @classmethod
    def session(cls, account_id: str, session_id: str) -> Audience:
        """Return the audience of a session: its own sockets and the user-scoped ones."""
        return cls(account_id, "session", session_id)

    @classmethod
    def machine(cls, account_id: str, machine_id: str) -> Audience:
        """Return the audience of a machine: its own sockets and the user-scoped ones."""
        return cls(account_id, "machine", machine_id)

    @property
    def text(self) -> str:
        """Scope and id in one text, as the outbox has them."""
        return f"{self.scope}:{self.id}" if self.id else self.scope

    @classmethod
    def of_text(cls, account_id: str, text: str) -> Audience:
        """Return the audience of an account whose `text` is this."""
        scope, _, id = text.partition(":")
        return cls(account_id, cast("Scope", scope), id)


class UpdatePayload(Outgoing):
    """The payload of the socket event `update`. `created_at` is in ms."""

    id: str
    seq: int
    body: msgspec.Struct
    created_at: int


class Update(msgspec.Struct, frozen=True):
    """A change that a transaction announces. `skip` is the id of the socket that must not receive it."""

    audience: Audience
    body: msgspec.Struct
    skip: str | None = None

    def commit(self, seq: int, now: int) -> Committed:
        """Return the update as it is sent: with its `seq` and its time in ms, encoded."""
        frame = json_codec.encode(UpdatePayload(ids.short_id(), seq, self.body, now))
        return Committed(self.audience, seq, frame, self.skip)


class Committed(msgspec.Struct, frozen=True):
    """An update that is on disk. `frame` is the JSON of its payload, encoded once for all receivers."""

    audience: Audience
    seq: int
    frame: bytes
    skip: str | None = None


class Ephemeral(msgspec.Struct, frozen=True):
    """An event of the moment, stored nowhere. Of those with the same `replaces` only the latest matters.

    `heartbeat` names the session or machine whose heartbeat it announces.
    """

    audience: Audience
    body: msgspec.Struct | msgspec.Raw
    replaces: str | None = None
    heartbeat: tuple[Literal["session", "machine"], str] | None = None


Event = Update | Ephemeral
"""What an operation may publish in its transaction."""


class Muted(msgspec.Struct, frozen=True, tag="muted"):
    """A session or machine has ended or was deleted: its late heartbeats no longer count."""

    kind: Literal["session", "machine"]
    account_id: str
    id: str


class Unmuted(msgspec.Struct, frozen=True, tag="unmuted"):
    """A session or machine was loaded or registered again: its heartbeats count from now on."""

    kind: Literal["session", "machine"]
    account_id: str
    id: str


class SignedOut(msgspec.Struct, frozen=True, tag="signed-out"):
    """An account was signed out everywhere: its sockets close and its cached tokens are verified again."""

    account_id: str


class DeviceSignedOut(msgspec.Struct, frozen=True, tag="device-signed-out"):
    """A device of an account was signed out: its sockets close and its cached tokens are verified again.

    `number` counts the devices that the account has signed out so far. `device_id` None: some of them were, which
    ones is not known.
    """

    account_id: str
    device_id: str | None
    number: int


class RegistrationChanged(msgspec.Struct, frozen=True, tag="registration-changed"):
    """Who may make an account has changed."""


class SetInactive(msgspec.Struct, frozen=True, tag="set-inactive"):
    """A session or machine was made inactive in the database: its next heartbeat has to be written at once."""

    kind: Literal["session", "machine"]
    account_id: str
    id: str


InternalMessage = Muted | Unmuted | SignedOut | DeviceSignedOut | RegistrationChanged | SetInactive
"""What every process of the server must hear; no client does."""


class Elsewhere(msgspec.Struct, frozen=True):
    """What happened in another process to sessions and machines of an account.

    - `heartbeat`: one of them sent a heartbeat.
    - `joined`: they have a socket there now.
    - `left`: a socket of them left there, and that process does what follows if it was the last one.
    - `lost`: their socket was in a process that died, and this process does what follows from it.
    """

    what: Literal["heartbeat", "joined", "left", "lost"]
    account_id: str
    keys: Sequence[tuple[Literal["session", "machine"], str]]


class MethodsElsewhere(msgspec.Struct, frozen=True):
    """The methods that a socket in another process answers now, and when it registered each (s since the epoch)."""

    account_id: str
    sid: str
    methods: Mapping[str, float]


BusMessage = Committed | Ephemeral | InternalMessage | Elsewhere | MethodsElsewhere
