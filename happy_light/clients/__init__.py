"""The connected clients: one `Client` for each socket, an index of them, and what other parts may ask about them."""

from happy_light.clients.client import CallFailed, Client, ClientKind, DisconnectReason, Transport
from happy_light.clients.directory import ClientDirectory, OtherProcesses
from happy_light.clients.registry import ClientRegistry

__all__ = [
    "CallFailed",
    "Client",
    "ClientDirectory",
    "ClientKind",
    "ClientRegistry",
    "DisconnectReason",
    "OtherProcesses",
    "Transport",
]
