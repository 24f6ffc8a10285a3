"""Encoded packets for clients: Socket.IO in Engine.IO (docs/protocol.md, section 14), and as websocket frames."""

from __future__ import annotations

from typing import Any

from happy_light import json_codec


class Packet:
    """One Engine.IO text packet, encoded once for all its receivers. `frame` is given if it is not a text frame."""

    __slots__ = ("_head", "frame")

    def __init__(self, data: bytes, frame: bytes | None = None) -> None:
        self.frame = text_frame(data) if frame is None else frame
        """The packet as a complete websocket frame, not masked."""
        self._head = len(self.frame) - len(data)

    @property
    def data(self) -> bytes:
        """The packet as polling carries it."""
        return self.frame[self._head :]


def text_frame(payload: bytes) -> bytes:
    """Return a complete text frame of a server (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def event(name: str, data: Any) -> Packet:
    """Return an event without an ack."""
    return Packet(b"42" + json_codec.encode([name, data]))


def event_with_ack(id: int, name: str, data: Any) -> Packet:
    """Return an event that asks for an ack."""
    return Packet(b"42%d" % id + json_codec.encode([name, data]))


def ack(id: int, value: Any) -> Packet:
    """Return the answer to the event with this id."""
    return Packet(b"43%d" % id + json_codec.encode([value]))
