"""Structs and field types of what clients and server exchange (docs/protocol.md section 1).

Names on the wire are camelCase; fields of type `bytes` are standard base64 with padding.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

import msgspec

# What JavaScript holds exactly and SQLite can store.
SafeInt = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
NonEmptyStr = Annotated[str, msgspec.Meta(min_length=1)]
ID_MAX: Final = 256  # characters of an id that a client sends
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_MAX)]
Base64 = Annotated[str, msgspec.Meta(extra_json_schema={"contentEncoding": "base64"})]


class Incoming(msgspec.Struct, rename="camel", gc=False):
    """Base of what clients send. Unknown fields are ignored."""


class Outgoing(msgspec.Struct, rename="camel", gc=False):
    """Base of what the server sends. Fields that are UNSET are left out."""


class Success(Outgoing):
    """`{"success": true}`."""

    success: Literal[True] = True


class Ok(Outgoing):
    """The ack of an event without an answer of its own; `ok` is false for a heartbeat that does not count."""

    ok: bool = True


class Failure(Outgoing):
    """A request that does not fit its schema, or an error of the server; `message` is for people."""

    error: str
    message: str
    status_code: int


class Versioned(Outgoing):
    """A value with its version, as updates carry it."""

    value: str | None
    version: int


def base64_text(value: bytes | msgspec.UnsetType | None) -> Base64 | None:
    """Return bytes as base64; None for no bytes, because clients take "" for a broken key."""
    return base64.b64encode(value).decode() if value else None
