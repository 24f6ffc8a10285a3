"""Who is there: heartbeats, ends, and the silence that follows (protocol.md section 15).

    socket  session-alive, session-end, machine-alive

Heartbeats come every few seconds from everyone, so they live in memory: ownership is cached, the
database gets one write per flush for all of them, and nobody waits for it.
"""

from __future__ import annotations

from typing import Any

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains.presence.tracker import FLUSH_EVERY, end, moment
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.store import Transaction
from happy_light.wire import Incoming, NonEmptyStr, Ok


# -------------------------------------------------------------------------------------------- wire
class SessionBeat(Incoming):
    """`session-alive`; time in ms."""

    sid: NonEmptyStr
    time: int | float
    thinking: Any = None


class SessionEnd(Incoming):
    """`session-end`; time in ms."""

    sid: NonEmptyStr
    time: int | float


class MachineBeat(Incoming):
    """`machine-alive`; time in ms."""

    machine_id: NonEmptyStr
    time: int | float


# ----------------------------------------------------------------------------------------- sockets
def session_alive(context: ServerContext, client: Client, beat: SessionBeat) -> Any:
    """A session lives; -> `{ok}`, whether it counted."""
    presence = context.presence
    return _acked(presence.beat(("session", client.account_id, beat.sid), beat.time, beat.thinking is True))


def machine_alive(context: ServerContext, client: Client, beat: MachineBeat) -> Any:
    """A machine lives; -> `{ok}`, whether it counted."""
    presence = context.presence
    return _acked(presence.beat(("machine", client.account_id, beat.machine_id), beat.time, False))


def _acked(counted: Any) -> Any:
    if isinstance(counted, bool):
        return {"ok": counted}

    async def later() -> dict[str, bool]:
        return {"ok": await counted}

    return later()


def session_end(context: ServerContext, client: Client, data: SessionEnd) -> Any:
    """A session is over, whatever heartbeats still come."""
    at = moment(data.time)
    if at is None:
        return ok_error("Too old")
    context.presence.mute(("session", client.account_id, data.sid))
    return context.database.write(client.account_id, _end_ack, data.sid, at)


def _end_ack(tx: Transaction, account_id: str, session_id: str, at: int) -> dict[str, bool]:
    end(tx, account_id, session_id, at)
    return {"ok": True}


def connected(context: ServerContext, client: Client) -> None:
    """Hook of the live edge."""
    context.presence.connected(client)


def disconnected(context: ServerContext, client: Client, reason: str) -> None:
    """Hook of the live edge."""
    context.presence.disconnected(client, reason)


async def _flush(context: ServerContext) -> None:
    await context.presence.flush()


async def _sweep(context: ServerContext) -> None:
    await context.presence.sweep()


events = {
    "session-alive": EventHandler(session_alive, ok_error, SessionBeat, Ok),
    "session-end": EventHandler(session_end, ok_error, SessionEnd, Ok),
    "machine-alive": EventHandler(machine_alive, ok_error, MachineBeat, Ok),
}
jobs = {_flush: FLUSH_EVERY, _sweep: 60.0}
