"""Packets with binary attachments, which no official client sends: python-socketio decodes them.

This module is imported when the first of them arrives, since importing that library takes a third of the time that
the server needs to start.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from socketio.packet import Packet

from happy_light import json_codec
from happy_light.live.socket_packets import PacketError, SocketPacket

ATTACHMENTS_MAX: Final = 16  # attachments of one packet
SIZE_MAX: Final = 100_000_000  # bytes of all attachments of one packet

_BROKEN: Final = (msgspec.DecodeError, UnicodeError, ValueError, IndexError, TypeError, RecursionError)


class _Json:
    """The server's JSON codec, as python-socketio wants it."""

    loads = staticmethod(json_codec.decode)


class _Packet(Packet):  # type: ignore[misc]
    json = _Json


class BinaryPacket:
    """A packet whose attachments are still to come."""

    def __init__(self, payload: bytes) -> None:
        """Decode the packet itself. Raises PacketError."""
        try:
            self._packet = _Packet(encoded_packet=payload.decode())
        except _BROKEN as error:
            raise PacketError(f"not a packet with attachments: {type(error).__name__}") from None
        if not 0 < self._packet.attachment_count <= ATTACHMENTS_MAX:
            raise PacketError("the number of attachments is missing or too large")
        self.size = len(payload)
        """How many bytes have arrived of it."""

    def add(self, attachment: bytes) -> SocketPacket | None:
        """Return the packet, if this was its last attachment. Raises PacketError."""
        packet: Any = self._packet
        self.size += len(attachment)
        if self.size > SIZE_MAX:
            raise PacketError("the attachments are too large")
        try:
            if not packet.add_attachment(attachment):
                return None
        except _BROKEN as error:
            raise PacketError(f"a placeholder has no attachment: {type(error).__name__}") from None
        return SocketPacket(packet.packet_type, packet.namespace or "/", packet.id, packet.data)
