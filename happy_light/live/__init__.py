"""Socket.IO: who connects, what clients send, and what is sent to them (docs/protocol.md, section 14).

What arrives goes from top to bottom through these modules, and an answer goes the other way:

    server.py        SocketServer: the ASGI application, and the assembly of the rest
    polling.py       requests of Engine.IO's HTTP long-polling        PollingTransport
    websocket.py     connections taken over from the HTTP server      WebSocketTransport
    frames.py        bytes of a websocket to messages
    transport.py     Engine.IO packets, pings, time limits, the end of a connection
    socket_packets.py  Socket.IO packets, decoded (binary_packets.py: those with attachments)
    handshake.py     CONNECT: a token becomes a `clients.Client`
    dispatch.py      events to the domains' handlers, their results to acks (acks.py: the negative ones)
    delivery.py      events of the bus to clients
"""

from happy_light.live.dispatch import EventHandler, collect
from happy_light.live.handshake import SocketHooks
from happy_light.live.server import PATH, SocketServer
from happy_light.live.transport import PACKET_MAX

__all__ = ["PACKET_MAX", "PATH", "EventHandler", "SocketHooks", "SocketServer", "collect"]
