"""Client state: whether the app is in the foreground, and whether the server is there (docs/protocol.md, section 14).

socket ping, app-state
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.wire import Incoming, Ok


# -------------------------------------------------------------------------------------------- wire
class AppState(Incoming):
    """`app-state`: everything but "active" counts as background."""

    state: str


# ----------------------------------------------------------------------------------------- sockets
def ping(context: ServerContext, client: Client, data: Any) -> dict[str, Any]:
    """Answer `{}`; the CLI waits for this ack before it exits."""
    return {}


def app_state(context: ServerContext, client: Client, data: Any) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Remember whether the client is in the foreground, so that no push is needed."""
    state = data.get("state") if isinstance(data, dict) else None
    client.app_state = "active" if state == "active" else "background"
    return context.clients.after_change(client, lambda: {"ok": True})


events = {
    "ping": EventHandler(ping, ok_error, None),
    "app-state": EventHandler(app_state, ok_error, None, Ok, like=AppState),
}
