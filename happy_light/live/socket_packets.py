"""Socket.IO packets as clients send them, decoded (Socket.IO protocol, revision 5)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import msgspec

from happy_light import json_codec

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4
BINARY_EVENT: Final = 5
BINARY_ACK: Final = 6

_ID_DIGITS: Final = 19


class PacketError(ValueError):
    """The client sent something that is not a packet."""


class SocketPacket(NamedTuple):
    """One decoded packet."""

    kind: int
    namespace: str
    id: int | None
    data: Any


class IncompletePacket(Protocol):
    """A packet whose attachments are still to come (binary_packets.py)."""

    @property
    def size(self) -> int:
        """How many bytes have arrived of it."""

    def add(self, attachment: bytes) -> SocketPacket | None:
        """Return the packet, if this was its last attachment. Raises PacketError."""


def has_attachments(payload: bytes) -> bool:
    """Return whether binary packets follow this one, so that it is one of binary_packets.py."""
    return payload[:1] in (b"5", b"6")


def decode(payload: bytes) -> SocketPacket:
    """Return a packet without attachments. Raises PacketError, UnicodeDecodeError."""
    kind = payload[0] - 48 if payload else -1
    if not CONNECT <= kind <= CONNECT_ERROR:
        raise PacketError("no packet has this type")
    start, namespace = 1, "/"
    if payload[1:2] == b"/":
        comma = payload.find(b",", 1)
        end = len(payload) if comma < 0 else comma
        namespace = payload[1:end].decode().partition("?")[0]
        start = min(end + 1, len(payload))
    id, start = _id(payload, start)
    return SocketPacket(kind, namespace, id, None if start == len(payload) else decode_json(payload, start))


def _id(payload: bytes, start: int) -> tuple[int | None, int]:
    end = start
    while end < len(payload) and 48 <= payload[end] <= 57:
        end += 1
        if end - start > _ID_DIGITS:
            raise PacketError("the id is too long")
    return (int(payload[start:end]) if end > start else None), end


def decode_json(payload: bytes, start: int) -> Any:
    """Return the JSON value that begins at `start`. Raises PacketError."""
    try:
        return json_codec.decode(memoryview(payload)[start:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise PacketError(f"not JSON: {type(error).__name__}") from None
