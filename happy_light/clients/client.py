"""A connected client: what is sent to it, the calls it has to answer, and how many of its writes are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final, Literal, Protocol

from happy_light.bus import Audience
from happy_light.clients import packets
from happy_light.clients.packets import Packet
from happy_light.clients.timeouts import Timeouts

IN_FLIGHT_MAX: Final = 256  # writes of one client under way; then nothing more is read from it
CALLS_MAX: Final = 10_000  # calls to one client that wait for their answer

ClientKind = Literal["user", "session", "machine"]
DisconnectReason = Literal[
    "client disconnect", "transport close", "ping timeout", "transport error", "server disconnect"
]
"""Why a client is gone. It meant to leave for the first two, or its process ended; else the connection failed."""


class Transport(Protocol):
    """What carries the packets of a client; live/ has one for websockets and one for polling."""

    def send(self, packet: Packet) -> None:
        """Send a packet without waiting. A client that leaves too much unread is dropped."""

    def end(self, reason: DisconnectReason) -> None:
        """Close the connection."""

    def pause_reading(self) -> None:
        """Leave what the client sends next in the network."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""


class CallFailed(Exception):
    """A call was not answered. `outcome` is its name in the metrics; the text is for the caller."""

    def __init__(self, outcome: str, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class PendingCall:
    """A call that waits for the client's ack. `convert` makes the future's result of the ack's arguments."""

    __slots__ = ("client", "convert", "future", "id")

    def __init__(self, client: Client, id: int, convert: Callable[[list[Any]], Any]) -> None:
        self.client = client
        self.id = id
        self.convert = convert
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def fail(self, outcome: str, text: str) -> None:
        """End the call without an answer."""
        if not self.future.done():
            self.future.set_exception(CallFailed(outcome, text))

    def expire(self) -> None:
        """End the call because its time is over."""
        self.client.forget_call(self.id)
        self.fail("timeout", "operation has timed out")


def receives(audience: Audience, kind: ClientKind, id: str, subscriptions: Collection[str]) -> bool:
    """Return whether a client of this kind, id and subscriptions belongs to an audience of its account."""
    if kind == "user" or (audience.scope == kind and audience.id == id):
        return True
    return audience.scope == "session" and audience.id in subscriptions


class Client:
    """One connected socket of an account. `id` is that of its session or machine, "" for a user-scoped socket."""

    __slots__ = (
        "_calls",
        "_in_flight",
        "_last_call",
        "_paused",
        "_timeouts",
        "account_id",
        "app_state",
        "device",
        "gone",
        "happy_client",
        "id",
        "kind",
        "pid",
        "sid",
        "subscriptions",
        "transport",
        "wanted_sessions",
    )

    def __init__(self, sid: str, account_id: str, kind: ClientKind, id: str, transport: Transport) -> None:
        self.sid = sid
        self.account_id = account_id
        self.kind: ClientKind = kind
        self.id = id
        self.transport = transport
        self.app_state: Literal["active", "background"] = "background"
        self.happy_client = ""
        """`happyClient` of its handshake, for metrics."""
        self.gone = False
        self.device = ""
        """The device whose token it has."""
        self.pid = ""
        """The secret id with which its connection can be continued; "" where recovery is off."""
        self.wanted_sessions: set[str] = set()
        """The sessions that a machine has asked to be subscribed to, found or still being looked up."""
        self.subscriptions: frozenset[str] = frozenset()
        """The sessions that it is subscribed to; kept by the registry."""
        self._calls: dict[int, PendingCall] | None = None
        self._timeouts: Timeouts[PendingCall] | None = None
        self._last_call = 0
        self._in_flight = 0
        self._paused = False

    # ------------------------------------------------------------------------------------- sending
    def send(self, packet: Packet) -> None:
        """Send a packet; do nothing once the client is gone. Never waits."""
        self.transport.send(packet)

    def emit(self, event: str, data: Any) -> None:
        """Send an event that asks for no ack."""
        self.transport.send(packets.event(event, data))

    def acknowledge(self, id: int | None, value: Any) -> None:
        """Answer the client's event of this id; without an id the client asked for no answer."""
        if id is not None:
            self.transport.send(packets.ack(id, value))

    # ------------------------------------------------------------------------------------- calling
    def call(
        self, event: str, data: Any, convert: Callable[[list[Any]], Any], timeouts: Timeouts[PendingCall]
    ) -> asyncio.Future[Any]:
        """Send an event that asks for an ack; return the future of `convert(arguments of the ack)`.

        The future raises CallFailed when the client leaves, or has not answered after `timeouts.seconds`.
        """
        self._last_call += 1
        call = PendingCall(self, self._last_call, convert)
        if self._calls is None:
            self._calls = {}
        if self.gone or len(self._calls) >= CALLS_MAX:
            call.fail("disconnected", "RPC target disconnected")
            return call.future
        self._calls[call.id] = call
        self._timeouts = timeouts
        timeouts.start(call)
        self.transport.send(packets.event_with_ack(call.id, event, data))
        return call.future

    def answered(self, id: int, arguments: list[Any]) -> None:
        """End the call of this id with the ack that has arrived; ignore an ack that nobody waits for."""
        call = self.forget_call(id)
        if call is not None and not call.future.done():
            call.future.set_result(call.convert(arguments))

    def forget_call(self, id: int) -> PendingCall | None:
        """Return the call of this id, which waits no longer; None if there is none."""
        call = self._calls.pop(id, None) if self._calls else None
        if call is not None and self._timeouts is not None:
            self._timeouts.stop(call)
        return call

    # ---------------------------------------------------------------------------- writes in flight
    @property
    def paused(self) -> bool:
        """Whether so many of its writes are under way that nothing more is read from it."""
        return self._paused

    def begin_write(self) -> None:
        """Count one more write under way."""
        self._in_flight += 1
        if self._in_flight >= IN_FLIGHT_MAX and not self._paused and not self.gone:
            self._paused = True
            self.transport.pause_reading()

    def end_write(self) -> None:
        """Count one write less."""
        self._in_flight -= 1
        if self._paused and self._in_flight <= IN_FLIGHT_MAX // 2:
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self.transport.resume_reading()

    # --------------------------------------------------------------------------------------- ending
    def drop(self) -> None:
        """Close its connection."""
        self.transport.end("server disconnect")

    def close(self) -> None:
        """Mark it as gone and end the calls that wait for it."""
        self.gone = True
        if self._paused:
            self._resume()
        calls, self._calls = self._calls, None
        for call in calls.values() if calls else ():
            if self._timeouts is not None:
                self._timeouts.stop(call)
            call.fail("disconnected", "RPC target disconnected")
