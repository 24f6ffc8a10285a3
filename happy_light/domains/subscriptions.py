"""Session subscriptions: one socket of a machine receives the events of many sessions (docs/protocol.md, section 20).

socket session-subscribe, session-unsubscribe
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from happy_light import json_codec
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.live import EventHandler
from happy_light.store import ReadTransaction
from happy_light.wire import Incoming, Outgoing

SUBSCRIPTIONS_MAX: Final = 10_000  # sessions that one socket may be subscribed to


# -------------------------------------------------------------------------------------------- wire
class Sessions(Incoming):
    """Data of `session-subscribe` and `session-unsubscribe`."""

    sids: Annotated[list[Annotated[str, msgspec.Meta(max_length=256)]], msgspec.Meta(min_length=1, max_length=500)]


class Subscribed(Outgoing):
    """Ack of `session-subscribe`: the account's own sessions and the other ids, each in the order asked."""

    subscribed: list[str]
    missing: list[str]
    result: Literal["success"] = "success"


class Unsubscribed(Outgoing):
    """Ack of `session-unsubscribe`."""

    result: Literal["success"] = "success"


class SubscriptionError(Outgoing):
    """Negative ack of both events."""

    reason: Literal["unsupported-client", "invalid", "internal"]
    result: Literal["error"] = "error"


# -------------------------------------------------------------------------------------- operations
def owned(tx: ReadTransaction, account_id: str, session_ids: Sequence[str]) -> set[str]:
    """Return which of these sessions belong to the account."""
    places = ", ".join(["?"] * len(session_ids))
    rows = tx.fetch_all(
        f"SELECT id FROM sessions WHERE account_id = ? AND id IN ({places})", (account_id, *session_ids)
    )
    return {id for (id,) in rows}


# ----------------------------------------------------------------------------------------- sockets
def session_subscribe(context: ServerContext, client: Client, data: Any) -> Any:
    """Let a machine's socket receive what the sockets of these sessions receive, until it disconnects."""
    if client.kind != "machine":
        return SubscriptionError("unsupported-client")
    session_ids = _session_ids(data)
    if len(client.wanted_sessions) + len(session_ids) > SUBSCRIPTIONS_MAX:
        return SubscriptionError("invalid")
    client.wanted_sessions.update(session_ids)
    return _subscribe(context, client, session_ids)


async def _subscribe(context: ServerContext, client: Client, session_ids: list[str]) -> Subscribed:
    found = await context.database.read(owned, client.account_id, session_ids)
    missing = [id for id in session_ids if id not in found]
    client.wanted_sessions.difference_update(missing)
    joined = found & client.wanted_sessions  # without those that it has unsubscribed from in the meantime
    context.clients.local.subscribe(client, joined)
    context.presence.subscribed(client, joined)
    await context.clients.announce(client)
    return Subscribed([id for id in session_ids if id in found], missing)


def session_unsubscribe(context: ServerContext, client: Client, data: Any) -> Any:
    """Undo `session-subscribe` for these sessions, also for those whose owner is still being looked up."""
    if client.kind != "machine":
        return SubscriptionError("unsupported-client")
    session_ids = _session_ids(data)
    client.wanted_sessions.difference_update(session_ids)
    context.clients.local.unsubscribe(client, session_ids)
    return context.clients.after_change(client, Unsubscribed)


def _session_ids(data: Any) -> list[str]:
    """Return the ids once each, in the order asked. Raises msgspec.ValidationError."""
    return list(dict.fromkeys(json_codec.convert(data, Sessions).sids))


def error_ack(text: str) -> SubscriptionError:
    """Return the negative ack."""
    return SubscriptionError("invalid" if text == "Invalid parameters" else "internal")


events = {
    "session-subscribe": EventHandler(session_subscribe, error_ack, None, Subscribed, like=Sessions),
    "session-unsubscribe": EventHandler(session_unsubscribe, error_ack, None, Unsubscribed, like=Sessions),
}
