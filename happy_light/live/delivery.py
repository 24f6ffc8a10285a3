"""Events of the bus, sent to the clients of their audience in the order in which they are published."""

from __future__ import annotations

from happy_light.bus import Bus, Committed, Ephemeral
from happy_light.clients import ClientRegistry, packets
from happy_light.clients.packets import Packet


class Delivery:
    """Send what the bus publishes. The bus never waits for a client: a transport queues, or drops the client.

    A packet is encoded once for all its receivers, and not at all if there are none.
    """

    def __init__(self, bus: Bus, clients: ClientRegistry) -> None:
        self._clients = clients
        bus.subscribe(Committed, self.update)
        bus.subscribe(Ephemeral, self.ephemeral)

    def update(self, update: Committed) -> None:
        """Send an update that is on disk to its audience, except to the client that caused it."""
        packet = None
        for client in self._clients.audience(update.audience):
            if client.sid != update.skip:
                if packet is None:
                    packet = Packet(b'42["update",%b]' % update.frame)
                client.send(packet)

    def ephemeral(self, ephemeral: Ephemeral) -> None:
        """Send an ephemeral event to its audience."""
        packet = None
        for client in self._clients.audience(ephemeral.audience):
            if packet is None:
                packet = packets.event("ephemeral", ephemeral.body)
            client.send(packet)
