"""HTTP long-polling: a client asks with GET for the packets that wait for it, and sends its own with POST.

Several packets travel in one body, separated by the character U+001E; binary ones are in base64 after a `b`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Final

from happy_light.clients import Client, DisconnectReason
from happy_light.clients.packets import Packet
from happy_light.live.socket_packets import PacketError
from happy_light.live.transport import UNAUTHENTICATED_MAX, Connections, Transport

PACKETS_MAX: Final = 10_000  # packets of one body; a burst of events arrives as one
PACKETS_AT_ONCE: Final = 100  # of one connection, before the event loop goes on with the others
_SEPARATOR: Final = b"\x1e"
_NOOP: Final = b"6"
_PACKET_COST: Final = 64  # bytes by which a waiting packet counts more than it has


class PollingTransport(Transport):
    """A connection that polls. `upgrading` while a websocket is about to take over; that is `probe`."""

    __slots__ = ("_limit", "_packets", "_poll", "_readable", "_unread", "probe", "upgrading")

    def __init__(self, connections: Connections, address: str) -> None:
        self._limit = UNAUTHENTICATED_MAX
        super().__init__(connections, address)
        self._packets: list[Packet] = []
        self._unread = 0  # bytes of the packets
        self._poll: asyncio.Future[bool] | None = None  # False: answer NOOP, whatever waits
        self._readable: asyncio.Future[None] | None = None
        self.upgrading = False
        self.probe: Transport | None = None

    @property
    def body_max(self) -> int:
        """How many bytes the next body may have."""
        return self._limit

    # ------------------------------------------------------------------------------------- sending
    def send(self, packet: Packet) -> None:
        """Let the packet wait for the next poll; do nothing after the end."""
        if self.closed:
            return
        self._packets.append(packet)
        self._unread += len(packet.data) + _PACKET_COST
        self._wake(True)
        self.limit_unread(self._unread)

    async def poll(self) -> bytes:
        """Return the packets that wait, as soon as there are some; nothing at the end of the connection."""
        self._wake(False)  # a client that polls again has given up its last poll
        if not self._packets and not self.upgrading and not self.closed:
            poll = self._poll = asyncio.get_running_loop().create_future()
            if not await poll:
                return _NOOP
        packets, self._packets, self._unread = self._packets, [], 0
        if not packets:
            return b"" if self.closed else _NOOP
        return _SEPARATOR.join([packet.data for packet in packets])

    def _wake(self, take: bool) -> None:
        poll, self._poll = self._poll, None
        if poll is not None and not poll.done():
            poll.set_result(take)

    # ----------------------------------------------------------------------------------- receiving
    async def receive_body(self, body: bytes) -> None:
        """Handle the packets of one body; wait while too many writes of the client are in flight.

        Raises PacketError, UnicodeDecodeError.
        """
        packets = body.split(_SEPARATOR, PACKETS_MAX)
        if len(packets) > PACKETS_MAX:
            raise PacketError("too many packets in one body")
        for index, packet in enumerate(packets, 1):
            if packet[:1] == b"b":
                self.receive_binary(_attachment(packet))
            else:
                self.receive(packet)
            while self._readable is not None and not self.closed:
                await asyncio.wait({self._readable})
            if index % PACKETS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self.closed:
                return
        if self.verification is not None:
            await asyncio.wait({self.verification})

    def pause_reading(self) -> None:
        """Let the client's next packets wait in their request."""
        if self._readable is None:
            self._readable = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        readable, self._readable = self._readable, None
        if readable is not None:
            readable.set_result(None)

    def _set_limit(self, size: int) -> None:
        self._limit = size

    # ------------------------------------------------------------------------------------- upgrade
    def begin_upgrade(self) -> None:
        """Let the client's poll end, and keep packets for the websocket."""
        self.upgrading = True
        self._wake(False)

    def end_probe(self) -> None:
        """Go on polling: the websocket has ended before it took over."""
        self.upgrading, self.probe = False, None
        if self._packets:
            self._wake(True)

    def hand_over(self) -> tuple[Client | None, list[Packet]]:
        """End without a word; return the client, if it is connected, and the packets that wait for it."""
        client, self.client = self.client, None
        if client is not None:
            self._release_incomplete(client)
        packets, self._packets, self._unread = self._packets, [], 0
        self.probe = None
        self._finish("server disconnect")  # which no client hears of
        self.resume_reading()
        return client, packets

    # --------------------------------------------------------------------------------------- ending
    def _close(self, code: int) -> None:
        self._abort()

    def _abort(self) -> None:
        self._packets, self._unread = [], 0

    def _finish(self, reason: DisconnectReason) -> None:
        super()._finish(reason)
        self._wake(True)
        probe, self.probe = self.probe, None
        if probe is not None:
            probe.end(reason)


def _attachment(packet: bytes) -> bytes:
    try:
        return base64.b64decode(packet[1:], validate=True)
    except binascii.Error as error:
        raise PacketError("an attachment that is not base64") from error
