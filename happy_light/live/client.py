"""A connected socket: what is sent to it, what it is asked, and how much of its work is under way."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from happy_light import json_codec
from happy_light.clients import Answer, Client, Kind
from happy_light.live import takeover

if TYPE_CHECKING:
    from happy_light.live.server import SocketServer

log = logging.getLogger(__name__)

PACKET_MAX: Final = 100_000_000  # bytes
IN_FLIGHT_MAX: Final = 256  # writes of one socket under way; then its next packets wait
CALLS_MAX: Final = 10_000  # calls to one peer that wait for their answer


class Packet:
    """One encoded Socket.IO packet, and its websocket frame; made once for all receivers."""

    __slots__ = ("_framed", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._framed: bytes | None = None

    @property
    def framed(self) -> bytes:
        """As a websocket frame."""
        if self._framed is None:
            self._framed = takeover.frame(b"4" + self.payload)
        return self._framed


class Link(Client):
    """A peer: over a connection that was taken over, or over the engine's own queue."""

    __slots__ = ("_calls", "_connection", "_ids", "_in_flight", "_live", "_when_idle", "address", "engine")

    def __init__(self, live: SocketServer, sid: str, account_id: str, kind: Kind, id: str, engine: Any) -> None:
        super().__init__(sid, account_id, kind, id)
        self.engine = engine
        self.address = ""
        """Where its connection comes from, as `Limits.address` says it."""
        self._live = live
        self._connection: takeover.Connection | None = getattr(engine, "connection", None)
        self._calls: dict[int, tuple[Callable[[Answer], None], float]] = {}
        self._ids = itertools.count(1)
        self._in_flight = 0
        self._when_idle: list[Callable[[], None]] = []
        if self._connection is not None:
            self._connection.link = self

    @property
    def taken_over(self) -> bool:
        """Whether it goes the fast way."""
        return self._connection is not None

    # ------------------------------------------------------------------------------------- sending
    def send(self, packet: Packet) -> None:
        if self._connection is not None:
            self._connection.send(packet.framed)
        elif not self.engine.closed:
            self.engine.queue.put_message(packet.payload)
            if self.engine.queue.waiting > takeover.QUEUE_MAX and not self.gone:
                log.warning("a client does not read; it is dropped")
                self.drop()

    def emit(self, event: str, data: Any) -> None:
        self.send(Packet(b"2" + json_codec.encode([event, data])))

    def acknowledge(self, id: int | None, value: Any) -> None:
        """Answers the event with this id; without one nobody asked."""
        if id is not None:
            self.send(Packet(b"3%d" % id + json_codec.encode([value])))

    # ------------------------------------------------------------------------------------- calling
    def call(self, event: str, data: Any, timeout: float, done: Callable[[Answer], None]) -> None:
        if self.gone or len(self._calls) >= CALLS_MAX:
            done(Answer("gone"))
            return
        id = next(self._ids)
        self._calls[id] = (done, time.monotonic() + timeout)
        self._live.calls_wait(self)
        self.send(Packet(b"2%d" % id + json_codec.encode([event, data])))

    def answered(self, id: int, args: list[Any]) -> None:
        """An ACK packet arrived."""
        waiting = self._calls.pop(id, None)
        if waiting is not None:
            waiting[0](Answer("answered", args))

    def expire(self, now: float) -> bool:
        """Ends the calls whose time (monotonic s) is over. -> whether any still wait."""
        late = [id for id, (_, deadline) in self._calls.items() if deadline <= now]
        for id in late:
            self._calls.pop(id)[0](Answer("timeout"))
        return bool(self._calls)

    # --------------------------------------------------------------------------------- being busy
    @property
    def is_busy(self) -> bool:
        """Whether so many of its writes are under way that what it sends next stays in the network."""
        return self._in_flight >= IN_FLIGHT_MAX

    def when_idle(self, resume: Callable[[], None]) -> None:
        """`resume` is called once it is no longer busy, or gone."""
        self._when_idle.append(resume)

    def began(self) -> None:
        """One more write of it is under way."""
        self._in_flight += 1

    def settled(self, _: object) -> None:
        """One of its writes is done."""
        self._in_flight -= 1
        if self._when_idle and self._in_flight <= IN_FLIGHT_MAX // 2:
            self._wake()

    def _wake(self) -> None:
        waiting, self._when_idle = self._when_idle, []
        for resume in waiting:
            resume()

    # --------------------------------------------------------------------------------------- ending
    def drop(self) -> None:
        """Ends the connection without waiting for the client."""
        self._live.abort(self.engine)

    def close(self) -> None:
        """Whoever waits for this peer is told that it is gone."""
        self.gone = True
        if self._connection is not None:  # what still comes over it is nobody's
            self._connection.link = None
        calls, self._calls = self._calls, {}
        for done, _ in calls.values():
            done(Answer("gone"))
        self._wake()


async def abort(engine: Any) -> None:
    """Closes an engine socket now. What it had still to get is thrown away."""
    await engine.close(wait=False, abort=True)
    while not engine.queue.empty():
        engine.queue.get_nowait()
    await engine.queue.put(None)  # ends its writer, or its connection
