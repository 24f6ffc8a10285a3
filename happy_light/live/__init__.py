"""The Socket.IO edge.

edge.py      Live: handshake, dispatch, acks, bus -> sockets
links.py     a connected socket
stack.py     what of python-socketio is ours instead      (only file that imports socketio and engineio)
takeover.py  the fast way of a websocket
"""

from happy_light.live.client import PACKET_MAX
from happy_light.live.server import PATH, EventHandler, SocketHooks, SocketServer, collect

__all__ = ["PACKET_MAX", "PATH", "EventHandler", "SocketHooks", "SocketServer", "collect"]
