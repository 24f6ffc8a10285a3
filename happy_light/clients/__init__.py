"""The connected clients of this process, and the directory that domains ask about them."""

from happy_light.clients.registry import Answer, Client, ClientRegistry, Kind

__all__ = ["Answer", "Client", "ClientRegistry", "Kind"]
