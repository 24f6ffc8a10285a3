"""What processes of one server tell each other over Redis: msgpack behind the id of the sender.

- `Hint` and `Moment` (an ephemeral event), `Announced` and `Left` go to an account's channel;
- `Internal`, `Connected`, `Alive`, `Ended` and `StatusWanted` to the channel of all processes;
- `Call`, `Answer`, `Drop` and `StatusGiven` to the channel of one process.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Literal

import msgspec

from happy_light.bus import InternalMessage, Scope
from happy_light.clients import ClientKind

ID_BYTES: Final = 12  # length of the id of a process, in ASCII

Key = tuple[Literal["session", "machine"], str]
"""A session or machine of an account: kind and id."""


class HintedUpdate(msgspec.Struct, array_like=True, frozen=True):
    """An update as the outbox has it; `audience` is `Audience.text`."""

    audience: str
    frame: bytes
    skip: str | None = None


class Hint(msgspec.Struct, tag="hint", frozen=True):
    """Updates of an account that were committed, numbered from `first` on."""

    account_id: str
    first: int
    updates: list[HintedUpdate]


class Moment(msgspec.Struct, tag="moment", frozen=True):
    """An ephemeral event; `body` is its JSON."""

    account_id: str
    scope: Scope
    id: str
    body: bytes
    replaces: str | None = None
    heartbeat: Key | None = None


class RemoteClient(msgspec.Struct, frozen=True):
    """A socket, as other processes know it: what it is, and what it has registered and subscribed to.

    `methods`: RPC methods by the time of their registration, in s since the epoch.
    """

    sid: str
    process: str
    account_id: str
    kind: ClientKind
    id: str
    in_foreground: bool
    methods: dict[str, float] = {}
    subscriptions: list[str] = []
    pid: str = ""
    """A hash of the secret with which its connection can be continued; "" where recovery is off."""

    @property
    def field(self) -> str:
        """Return its field in the hash of its account: a socket that moves keeps its id."""
        return f"{self.sid} {self.process}"

    def is_socket_of(self, kind: ClientKind, id: str) -> bool:
        """Return whether it is a socket of that session or machine."""
        return (self.kind == kind and self.id == id) or (kind == "session" and id in self.subscriptions)

    def keys(self) -> list[Key]:
        """Return the sessions and machines that it is a socket of."""
        own: list[Key] = [] if self.kind == "user" else [(self.kind, self.id)]
        return [*own, *(("session", id) for id in self.subscriptions)]


class Announced(msgspec.Struct, tag="client", frozen=True):
    """A socket has connected or changed."""

    client: RemoteClient


class Left(msgspec.Struct, tag="left", frozen=True):
    """A socket is gone; `field` is its `RemoteClient.field`.

    `last_of`: what it was the last socket of, as far as its process knows.
    """

    account_id: str
    field: str
    last_of: list[Key] = []


class Internal(msgspec.Struct, tag="internal", frozen=True):
    """An internal message of the bus."""

    message: InternalMessage


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """The process lives."""

    process: str


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """The process has ended, and so have its sockets."""

    process: str


class Call(msgspec.Struct, tag="call", frozen=True):
    """Send an event to a socket of the receiver, and answer `caller` with its ack; `data` is JSON."""

    id: int
    caller: str
    account_id: str
    sid: str
    event: str
    data: bytes


class Answer(msgspec.Struct, tag="answer", frozen=True):
    """The end of a call: the JSON list of the ack's arguments, or an outcome other than `ok` with its text."""

    id: int
    outcome: str
    text: str = ""
    arguments: bytes = b"[]"


class Drop(msgspec.Struct, tag="drop", frozen=True):
    """Close a socket of the receiver, since its client continues it elsewhere; `pid` is the hash."""

    sid: str
    pid: str


class Connected(msgspec.Struct, tag="connected", frozen=True):
    """The sender has connected to Redis: no other process has heard of the sign-outs that it made before."""


class StatusWanted(msgspec.Struct, tag="status-wanted", frozen=True):
    """The process `asker` wants to know how the receiver is."""

    asker: str


class StatusGiven(msgspec.Struct, tag="status", frozen=True):
    """How a process is, as JSON."""

    process: str
    status: bytes


Message = (
    Hint | Moment | Announced | Left | Internal | Connected | Alive | Ended | Call | Answer | Drop
    | StatusWanted | StatusGiven
)  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
encode_client = msgspec.json.Encoder().encode
decode_client = msgspec.json.Decoder(RemoteClient).decode


def hash_pid(pid: str) -> str:
    """Return what Redis knows of a pid, which is a secret of the client."""
    return hashlib.sha256(pid.encode()).hexdigest()[:32] if pid else ""


def new_process_id() -> str:
    """Return an id for a process."""
    return secrets.token_hex(ID_BYTES // 2)


def encode(process: str, message: Message) -> bytes:
    """Return a message of a process as it travels."""
    return process.encode() + _encode(message)


def sender(payload: bytes) -> bytes:
    """Return the id of the process that a message comes from."""
    return payload[:ID_BYTES]


def decode(payload: bytes) -> Message:
    """Return the message. Raises msgspec.DecodeError."""
    message: Message = _decode(memoryview(payload)[ID_BYTES:])
    return message


class Names:
    """The names of channels and keys of one server in Redis, which several servers may use.

    What belongs to an account has its id between braces, so that a cluster keeps it on one node and in order.
    """

    def __init__(self, server: str) -> None:
        self._prefix = f"happy:{server}:"
        self.all = f"{self._prefix}all"

    def account(self, account_id: str) -> str:
        """Return the channel of an account."""
        return f"{self._prefix}{{{account_id}}}"

    def clients(self, account_id: str) -> str:
        """Return the hash with the sockets of an account."""
        return f"{self._prefix}{{{account_id}}}:clients"

    def ended(self, account_id: str, pid: str) -> str:
        """Return the key of a connection that was cut off, by the hash of its pid."""
        return f"{self._prefix}{{{account_id}}}:ended:{pid}"

    def moments(self, account_id: str) -> str:
        """Return the hash with the latest ephemeral events of an account."""
        return f"{self._prefix}{{{account_id}}}:moments"

    def count(self, account_id: str, name: str) -> str:
        """Return the key of a count of what an account does."""
        return f"{self._prefix}{{{account_id}}}:count:{name}"

    def process(self, process: str) -> str:
        """Return the channel of a process; the key of this name is there while it lives."""
        return f"{self._prefix}process:{process}"
