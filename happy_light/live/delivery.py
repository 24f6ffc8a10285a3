"""Events of the bus, sent to the clients of their audience in the order in which they are published."""

from __future__ import annotations

from collections.abc import Callable

from happy_light import json_codec
from happy_light.bus import Audience, Bus, Committed, Ephemeral
from happy_light.clients import ClientDirectory
from happy_light.clients.packets import Packet
from happy_light.live.cork import Cork


class Delivery:
    """Send what the bus publishes. The bus never waits for a client: a transport queues, or drops the client.

    A packet is encoded once for all its receivers, and kept for those that were cut off. It is not encoded at all if
    there are neither.
    """

    def __init__(self, bus: Bus, clients: ClientDirectory, cork: Cork) -> None:
        self._clients = clients.local
        self._recent = clients.recovery.events
        self._cork = cork
        bus.subscribe(Committed, self.update)
        bus.subscribe(Ephemeral, self.ephemeral)

    def update(self, update: Committed) -> None:
        """Send an update that is on disk to its audience, except to the client that caused it."""

        def encode(offset: bytes) -> Packet:
            return Packet(b'42["update",%b%b]' % (update.frame, offset))

        self._cork.hold()  # the rest of its group follows
        self._send(update.audience, encode, update.skip, None, update.seq)

    def ephemeral(self, ephemeral: Ephemeral) -> None:
        """Send an ephemeral event to its audience."""

        def encode(offset: bytes) -> Packet:
            return Packet(b'42["ephemeral",%b%b]' % (json_codec.encode(ephemeral.body), offset))

        self._send(ephemeral.audience, encode, None, ephemeral.replaces, None)

    def _send(
        self,
        audience: Audience,
        encode: Callable[[bytes], Packet],
        skip: str | None,
        replaces: str | None,
        seq: int | None,
    ) -> None:
        packet = None
        if self._recent.is_held(audience.account_id):
            packet = self._recent.add(audience, encode, skip, replaces, seq)
        for client in self._clients.audience(audience):
            if client.sid != skip:
                if packet is None:
                    packet = encode(b"")
                client.send(packet)
