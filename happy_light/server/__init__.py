"""Run a server: its sockets, its life from start to stop, and the process around it."""

from happy_light.server.server import Server

__all__ = ["Server"]
