"""Socket.IO packets as clients send them, decoded (Socket.IO protocol, revision 5)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from happy_light import json_codec

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4
BINARY_EVENT: Final = 5
BINARY_ACK: Final = 6

ATTACHMENTS_MAX: Final = 16  # binary attachments of one packet; today's clients send none
_ID_DIGITS: Final = 19


class PacketError(ValueError):
    """The client sent something that is not a packet."""


class SocketPacket(NamedTuple):
    """One decoded packet. `attachments` is how many binary packets follow it."""

    kind: int
    namespace: str
    id: int | None
    data: Any
    attachments: int = 0


def decode(payload: bytes) -> SocketPacket:
    """Return the packet. Raises PacketError, UnicodeDecodeError."""
    kind = payload[0] - 48 if payload else -1
    if not CONNECT <= kind <= BINARY_ACK:
        raise PacketError("no packet has this type")
    start, attachments, namespace = 1, 0, "/"
    if kind in (BINARY_EVENT, BINARY_ACK):
        dash = payload.find(b"-", 1, 1 + _ID_DIGITS)
        digits = payload[1:dash] if dash > 1 else b""
        if not digits.isdigit() or int(digits) > ATTACHMENTS_MAX:
            raise PacketError("the number of attachments is missing or too large")
        start, attachments = dash + 1, int(digits)
    if payload[start : start + 1] == b"/":
        comma = payload.find(b",", start)
        end = len(payload) if comma < 0 else comma
        namespace = payload[start:end].decode().partition("?")[0]
        start = min(end + 1, len(payload))
    id, start = _id(payload, start)
    if start == len(payload):
        return SocketPacket(kind, namespace, id, None, attachments)
    return SocketPacket(kind, namespace, id, decode_json(payload, start), attachments)


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PacketError(f"not JSON: {type(error).__name__}") from None


def attach(data: Any, attachments: list[bytes], depth: int = 0) -> Any:
    """Return the data with every placeholder replaced by its attachment. Raises PacketError."""
    if depth > 100:
        raise PacketError("nested too deeply")
    if isinstance(data, list):
        return [attach(item, attachments, depth + 1) for item in data]
    if not isinstance(data, dict):
        return data
    if data.get("_placeholder") is True:
        number = data.get("num")
        if isinstance(number, int) and 0 <= number < len(attachments):
            return attachments[number]
        raise PacketError("a placeholder has no attachment")
    return {name: attach(item, attachments, depth + 1) for name, item in data.items()}
