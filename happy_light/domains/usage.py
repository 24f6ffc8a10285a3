"""What agents cost, as they report it (protocol.md sections 8 and 14).

socket usage-report
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from happy_light import wire
from happy_light.bus import Audience, Ephemeral
from happy_light.domains import sessions
from happy_light.errors import Problem, Refused
from happy_light.live import On
from happy_light.rooms import Peer
from happy_light.store import Tx
from happy_light.wire import Out


# -------------------------------------------------------------------------------------------- wire
class UsageEvent(Out, tag_field="type", tag="usage"):
    """Ephemeral to user-scoped sockets; id is the session, timestamp in ms."""

    id: str
    key: str
    tokens: dict[str, Any]
    cost: dict[str, Any]
    timestamp: int


class ReportAck(Out):
    """Ack of `usage-report`."""

    report_id: str
    created_at: int
    updated_at: int
    success: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def report(
    tx: Tx, account_id: str, session_id: str | None, key: str, tokens: dict[str, Any], cost: dict[str, Any]
) -> ReportAck:
    """Stores the report, or puts it in the place of the one with the same session and key. Raises Refused."""
    if session_id is not None:
        sessions.owned(tx, account_id, session_id)
    row = tx.one(
        "INSERT INTO usage_reports (id, account_id, session_id, key, tokens, cost, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, ifnull(session_id, ''), key) DO UPDATE "
        "SET tokens = excluded.tokens, cost = excluded.cost, updated_at = excluded.updated_at "
        "RETURNING id, created_at, updated_at",
        (wire.new_id(), account_id, session_id, key, wire.encode(tokens).decode(), wire.encode(cost).decode(),
         tx.now, tx.now),
    )  # fmt: skip
    assert row is not None
    if session_id is not None:
        tx.publish(Ephemeral(Audience(account_id), UsageEvent(session_id, key, tokens, cost, tx.now)))
    return ReportAck(*row)


# ----------------------------------------------------------------------------------------- sockets
def usage_report(peer: Peer, data: Any) -> asyncio.Future[ReportAck]:
    """The payload's mistakes have texts of their own, so it is looked at by hand."""
    if not isinstance(data, dict):
        raise Refused(Problem(400, "Invalid key"))
    key, tokens, cost, session_id = (data.get(name) for name in ("key", "tokens", "cost", "sessionId"))
    if not isinstance(key, str) or not key:
        raise Refused(Problem(400, "Invalid key"))
    for name, numbers in (("tokens", tokens), ("cost", cost)):
        if not isinstance(numbers, dict) or not _is_number(numbers.get("total")):
            raise Refused(Problem(400, f"Invalid {name} object - must include total"))
    if session_id is not None and (not isinstance(session_id, str) or not session_id):
        raise Refused(Problem(400, "Invalid sessionId"))
    return peer.house.store.write(report, peer.account_id, session_id, key, tokens, cost)  # type: ignore[arg-type]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def refuse(text: str) -> dict[str, Any]:
    """The ack that says no."""
    return {"success": False, "error": text}


events = {"usage-report": On(usage_report, refuse, None, ReportAck)}
