"""Presence: heartbeats and ends of sessions and machines (docs/protocol.md, section 15).

socket session-alive, session-end, machine-alive
ephemeral activity, machine-activity
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains.presence.operations import Key, clamp_time, end_session
from happy_light.domains.presence.tracker import EXPIRE_INTERVAL, FLUSH_INTERVAL
from happy_light.errors import ApiError, ErrorResponse
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.store import Transaction
from happy_light.wire import Id, Incoming, Ok


# -------------------------------------------------------------------------------------------- wire
class SessionHeartbeat(Incoming):
    """The payload of `session-alive`; time in ms."""

    sid: Id
    time: int | float
    thinking: Any = None


class SessionEnd(Incoming):
    """The payload of `session-end`; time in ms."""

    sid: Id
    time: int | float


class MachineHeartbeat(Incoming):
    """The payload of `machine-alive`; time in ms."""

    machine_id: Id
    time: int | float


# ----------------------------------------------------------------------------------------- sockets
def session_alive(context: ServerContext, client: Client, data: SessionHeartbeat) -> Ok | Awaitable[Ok]:
    """Announce a heartbeat of a session; `ok` is false if it is ignored."""
    key = Key("session", client.account_id, data.sid)
    return _ack(context.presence.heartbeat(key, data.time, data.thinking is True))


def machine_alive(context: ServerContext, client: Client, data: MachineHeartbeat) -> Ok | Awaitable[Ok]:
    """Announce a heartbeat of a machine; `ok` is false if it is ignored."""
    key = Key("machine", client.account_id, data.machine_id)
    return _ack(context.presence.heartbeat(key, data.time, False))


def _ack(counted: bool | Awaitable[bool]) -> Ok | Awaitable[Ok]:
    if isinstance(counted, bool):
        return Ok(counted)

    async def ack_later() -> Ok:
        return Ok(await counted)

    return ack_later()


def session_end(context: ServerContext, client: Client, data: SessionEnd) -> asyncio.Future[Ok]:
    """Make a session inactive; its heartbeats are ignored for 60 s, until it is loaded again."""
    at = clamp_time(data.time)
    if at is None:
        raise ApiError(ErrorResponse(400, "Too old"))

    def operation(tx: Transaction, account_id: str) -> Ok:
        end_session(tx, account_id, data.sid, at)
        return Ok()

    write = context.database.write(client.account_id, operation)
    context.presence.mute(Key("session", client.account_id, data.sid), write)
    return write


def connected(context: ServerContext, client: Client) -> None:
    """Tell the tracker that a socket connected."""
    context.presence.connected(client)


def disconnected(context: ServerContext, client: Client, reason: str) -> None:
    """Tell the tracker that a socket disconnected, and the engine's reason."""
    context.presence.disconnected(client, reason)


async def _flush(context: ServerContext) -> None:
    await context.presence.flush()


async def _expire(context: ServerContext) -> None:
    await context.presence.expire()


events = {
    "session-alive": EventHandler(session_alive, ok_error, SessionHeartbeat, Ok),
    "session-end": EventHandler(session_end, ok_error, SessionEnd, Ok),
    "machine-alive": EventHandler(machine_alive, ok_error, MachineHeartbeat, Ok),
}
jobs = {_flush: FLUSH_INTERVAL, _expire: EXPIRE_INTERVAL}
