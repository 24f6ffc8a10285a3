"""The Socket.IO edge.

edge.py      Live: handshake, dispatch, acks, bus -> sockets
links.py     a connected socket
stack.py     what of python-socketio is ours instead      (only file that imports socketio and engineio)
takeover.py  the fast way of a websocket
"""

from happy_light.live.edge import PATH, Hooks, Live, On, collect
from happy_light.live.links import PACKET_MAX

__all__ = ["PACKET_MAX", "PATH", "Hooks", "Live", "On", "collect"]
