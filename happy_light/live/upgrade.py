"""The move of a connection from polling to a websocket, without losing or reordering a packet.

The client sends `2probe` over the new websocket and hears `3probe`; it lets its last poll end and sends `5`. From
then on the websocket carries the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from happy_light.clients import DisconnectReason
from happy_light.clients.packets import Packet
from happy_light.live.polling import PollingTransport
from happy_light.live.socket_packets import PacketError
from happy_light.live.transport import PACKET_MAX, Connections
from happy_light.live.websocket import WebSocketTransport

_PROBE: Final = b"2probe"
_PROBE_ANSWER: Final = Packet(b"3probe")
_UPGRADE: Final = b"5"


class UpgradingTransport(WebSocketTransport):
    """A websocket that is tried out by a client that polls, and takes over from its polling."""

    __slots__ = ("_polling",)

    def __init__(
        self,
        connections: Connections,
        polling: PollingTransport,
        writer: asyncio.StreamWriter,
        lost: Callable[[], None],
    ) -> None:
        super().__init__(connections, polling.address, writer, lost)
        self._polling: PollingTransport | None = polling

    def begin(self) -> None:
        """Wait for the probe, as long as for a CONNECT."""
        assert self._polling is not None
        self._polling.probe = self
        self._expect_connect()

    def receive(self, payload: bytes) -> None:
        """Handle one text packet: first those of the upgrade. Raises PacketError, UnicodeDecodeError."""
        polling = self._polling
        if polling is None:
            super().receive(payload)
        elif payload == _PROBE and not polling.upgrading:
            polling.begin_upgrade()
            self.send(_PROBE_ANSWER)
        elif payload == _UPGRADE and polling.upgrading and polling.verification is None:
            self._take_over(polling)
        else:
            raise PacketError("not a step of an upgrade")

    def _take_over(self, polling: PollingTransport) -> None:
        self._polling = None
        self._stop_expecting_connect()
        answers_ping = self.connections.ping_timeouts.stop(polling)
        client, packets = polling.hand_over()
        self.id = polling.id
        self.connections.by_id[self.id] = self
        (self.connections.ping_timeouts if answers_ping else self.connections.ping_intervals).start(self)
        if client is None:
            self._expect_connect()
        else:
            self.client = client
            client.transport = self
            self._set_limit(PACKET_MAX)
            if client.paused:
                self.pause_reading()
        for packet in packets:
            self.send(packet)

    def _finish(self, reason: DisconnectReason) -> None:
        super()._finish(reason)
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.end_probe()
