"""The Socket.IO edge: handshake, dispatch, acks, and the one place that sends to sockets.

python-socketio speaks the protocol (handshake, polling, packets); which sockets there are, what an
event means and who hears an update is ours (rooms.py, the domains, the bus).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import engineio
import engineio.async_socket
import engineio.payload
import msgspec
import socketio
from engineio.packet import MESSAGE as EIO_MESSAGE
from engineio.packet import Packet as EioPacket

from happy_light import gate, takeover, wire
from happy_light.bus import Event, Update
from happy_light.errors import Refused, Unavailable
from happy_light.house import House
from happy_light.rooms import Answer, Kind, Peer

log = logging.getLogger(__name__)

PATH: Final = "/v1/updates"
PING_INTERVAL: Final = 15  # s
PING_TIMEOUT: Final = 45  # s
CONNECT_TIMEOUT: Final = 20.0  # s that an engine connection may take to send CONNECT
PACKET_MAX: Final = 100_000_000  # bytes
ATTACHMENTS_MAX: Final = 16  # binary attachments of one event; no client of ours sends any
QUEUE_MAX: Final = 16_000_000  # bytes that wait for a client which does not read; then it is dropped
IN_FLIGHT_MAX: Final = 256  # writes of one socket under way; then its next packets wait
CALLS_MAX: Final = 10_000  # calls to one peer that wait for their answer

# Over polling a burst arrives as one payload; the library's 16 would end the connection.
engineio.payload.Payload.max_decode_packets = 10_000

Handler = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class On:
    """A row of a domain's table of socket events.

    `handler(peer, data)` returns the ack's value or something to wait for; `data` is the struct that
    the payload must fit (None: as it came). `refuse(text)` makes the ack that says no.
    """

    handler: Handler
    refuse: Callable[[str], Any]
    data: type[Any] | None = None
    ack: Any = None
    """What the ack carries, for the documentation."""
    like: type[Any] | None = None
    """What the payload is meant to be like where `data` is None, for the documentation."""
    patient: bool = False
    """It waits for another client, not for our disk: the domain bounds it, and it holds up no other event."""


@dataclass(slots=True)
class Hooks:
    """What domains want to know about sockets, beside events."""

    connected: list[Callable[[Peer], None]] = field(default_factory=list)
    disconnected: list[Callable[[Peer, str], None]] = field(default_factory=list)
    """(peer, reason of the engine)."""


class _Codec:
    """msgspec in the place of json: for the library's own packets too."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return wire.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return wire.decode(text)


class _Queue(asyncio.Queue[Any]):
    """A client's outgoing packets, with their size: the library's own queue has no bound."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self.waiting = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self.waiting += _size(item)

    def _get(self) -> Any:
        item = super()._get()
        self.waiting -= _size(item)
        return item


def _size(item: Any) -> int:
    return 64 + len(item.data) if isinstance(item, EioPacket) and isinstance(item.data, str | bytes) else 0


class _Engine(engineio.AsyncServer):  # type: ignore[misc]
    def create_queue(self, *args: Any, **kwargs: Any) -> _Queue:
        return _Queue(*args, **kwargs)


class _Socket(engineio.async_socket.AsyncSocket):  # type: ignore[misc]
    async def receive(self, pkt: EioPacket) -> None:
        """As the library's, but a type that there is not ends the connection, without a traceback."""
        try:
            await super().receive(pkt)
        except (IndexError, ValueError) as error:
            log.info("a client sent what is no Engine.IO packet (%s)", type(error).__name__)
            await _abort(self)


class _Manager(socketio.AsyncManager):  # type: ignore[misc]
    """Who is connected to the namespace, and no rooms: those are in rooms.py.

    The library's own scans every room when a client goes.
    """

    live: Live

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        if room is None:
            super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)

    def basic_disconnect(self, sid: str, namespace: str, **kwargs: Any) -> None:
        if sid in self.rooms.get(namespace, {}).get(None, ()):
            self.basic_leave_room(sid, namespace, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            waiting = pending.get(namespace, ())
            if sid in waiting:
                waiting.remove(sid)
                if not waiting:
                    del pending[namespace]

    async def trigger_callback(self, sid: str, id: int, data: list[Any]) -> None:
        link = self.live.links.get(sid)
        if link is not None:
            link.answered(id, data)


class _Server(socketio.AsyncServer):  # type: ignore[misc]
    """python-socketio with our dispatch in the place of its own.

    Its own starts a task for every event, sends no ack when a handler fails, and lets a client fire
    the handlers of `connect` and `disconnect` by events of these names.
    """

    live: Live

    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self.live.expect_connect(eio_sid)
        # The library makes its sockets of a class that nobody can name to it.
        self.eio.sockets[eio_sid].__class__ = _Socket

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        try:
            await super()._handle_eio_message(eio_sid, data)
            partial = self._binary_packet.get(eio_sid)  # an event whose binary attachments still come
            if partial is not None and (
                partial.attachment_count > ATTACHMENTS_MAX or sum(map(len, partial.attachments)) > PACKET_MAX
            ):
                raise ValueError("too many attachments")
        except Exception as error:
            log.info("a client sent what is no Socket.IO packet (%s); it is disconnected", type(error).__name__)
            engine = self.eio.sockets.get(eio_sid)
            if engine is not None:
                await _abort(engine)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        link = self.live.links.get(self.manager.sid_from_eio_sid(eio_sid, namespace or "/"))
        if link is None or not isinstance(data, list) or not data or not isinstance(data[0], str):
            return
        self.live.dispatch(link, data[0], data[1:], None if id is None else link.acknowledge(id))
        if link.is_busy:
            idle = asyncio.Event()
            link.when_idle(idle.set)
            await idle.wait()

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        self.live.ended(eio_sid)


class Packet:
    """One encoded Socket.IO packet, and the forms in which transports want it; made once for all receivers."""

    __slots__ = ("_eio", "_framed", "_payload")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._framed: bytes | None = None
        self._eio: EioPacket | None = None

    @property
    def framed(self) -> bytes:
        """As a websocket frame."""
        if self._framed is None:
            self._framed = takeover.frame(b"4" + self._payload)
        return self._framed

    @property
    def eio(self) -> EioPacket:
        """As a packet of the engine."""
        if self._eio is None:
            self._eio = EioPacket(EIO_MESSAGE, self._payload.decode())
        return self._eio


class Link(Peer):
    """A peer: over a connection that was taken over, or over the engine's own queue."""

    __slots__ = ("_calls", "_connection", "_engine", "_ids", "_in_flight", "_when_idle")

    def __init__(self, house: House, sid: str, account_id: str, kind: Kind, id: str, engine: Any) -> None:
        super().__init__(house, sid, account_id, kind, id)
        self._engine = engine
        self._connection: takeover.Connection | None = getattr(engine, "connection", None)
        self._calls: dict[int, tuple[Callable[[Answer], None], asyncio.TimerHandle]] = {}
        self._ids = itertools.count(1)
        self._in_flight = 0
        self._when_idle: list[Callable[[], None]] = []
        if self._connection is not None:
            self._connection.link = self

    @property
    def taken_over(self) -> bool:
        """Whether it goes the fast way."""
        return self._connection is not None

    def send(self, packet: Packet) -> None:
        if self._connection is not None:
            self._connection.send(packet.framed)
            return
        if self._engine.closed:
            return
        queue = self._engine.queue
        queue.put_nowait(packet.eio)
        if queue.waiting > QUEUE_MAX and not self.gone:
            log.warning("a client does not read; it is dropped")
            self.drop()

    def emit(self, event: str, data: Any) -> None:
        self.send(Packet(b"2" + wire.encode([event, data])))

    def call(self, event: str, data: Any, timeout: float, done: Callable[[Answer], None]) -> None:
        if self.gone or len(self._calls) >= CALLS_MAX:
            done(Answer("gone"))
            return
        id = next(self._ids)
        timer = asyncio.get_running_loop().call_later(timeout, self._end_call, id, Answer("timeout"))
        self._calls[id] = (done, timer)
        self.send(Packet(b"2%d" % id + wire.encode([event, data])))

    def answered(self, id: int, args: list[Any]) -> None:
        """An ACK packet arrived."""
        self._end_call(id, Answer("answered", args))

    def _end_call(self, id: int, answer: Answer) -> None:
        waiting = self._calls.pop(id, None)
        if waiting is not None:
            done, timer = waiting
            timer.cancel()
            done(answer)

    def acknowledge(self, id: int) -> Callable[[Any], None]:
        """What answers the event with this id."""
        return lambda value: self.send(Packet(b"3%d" % id + wire.encode([value])))

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

    def drop(self) -> None:
        """Ends the connection without waiting for the client."""
        self._engine.server.start_background_task(_abort, self._engine)

    def close(self) -> None:
        """Whoever waits for this peer is told that it is gone."""
        self.gone = True
        for id in list(self._calls):
            self._end_call(id, Answer("gone"))
        self._wake()


async def _abort(engine: Any) -> None:
    """Closes an engine socket now. What it had still to get is thrown away."""
    await engine.close(wait=False, abort=True)
    while not engine.queue.empty():
        engine.queue.get_nowait()
    await engine.queue.put(None)  # ends its writer, or its connection


class Live:
    """All sockets of one server."""

    def __init__(self, house: House, events: Mapping[str, On], hooks: Hooks) -> None:
        self.house = house
        self.events = events
        self.hooks = hooks
        self.links: dict[str | None, Link] = {}
        self.queue_max = QUEUE_MAX
        self._expected: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        manager = _Manager()
        self.sio = _Server(
            async_mode="asgi",
            client_manager=manager,
            cors_allowed_origins="*",
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            max_http_buffer_size=PACKET_MAX,
            json=_Codec,
            logger=logging.getLogger("happy_light.socketio"),
            engineio_logger=logging.getLogger("happy_light.engineio"),
        )
        manager.live = self.sio.live = self
        for name in ("happy_light.socketio", "happy_light.engineio"):
            logging.getLogger(name).setLevel(logging.WARNING)  # below that they log what travels

        class WebSocket(takeover.WebSocket):
            live = self

        self.sio.eio._async = {**self.sio.eio._async, "websocket": WebSocket}
        self.sio.on("connect", self._connect)
        self.sio.on("disconnect", self._disconnect)
        house.bus.subscribe(self.deliver)

    # ------------------------------------------------------------------------------------- sending
    def deliver(self, event: Event) -> None:
        """Sends an event to its audience; encoded once. Every update leaves through here."""
        packet = None
        skip = None
        for peer in self.house.rooms.of(event.to):
            if packet is None:
                if isinstance(event, Update):
                    packet = Packet(b"2" + wire.encode(["update", event.frame]))
                    skip = event.skip
                else:
                    packet = Packet(b"2" + wire.encode(["ephemeral", event.body]))
            if peer is not skip:
                peer.send(packet)

    # ----------------------------------------------------------------------------------- receiving
    def dispatch(self, link: Link, event: str, args: list[Any], acknowledge: Callable[[Any], None] | None) -> None:
        """Runs the handler of an event now, in the order of arrival; the ack comes whatever happens."""
        on = self.events.get(event)
        self.house.counters.event(event if on is not None else "unknown")
        if on is None:
            if acknowledge is not None:
                acknowledge({"ok": False, "error": f"Unknown event {event[:100]}"})
            return
        data = args[0] if args else None
        try:
            if on.data is not None:
                data = msgspec.convert(data, on.data)
            result = on.handler(link, data)
        except Exception as error:
            result = on.refuse(_text(event, error))
        if asyncio.iscoroutine(result):
            result = self.spawn(result)
        if not isinstance(result, asyncio.Future):
            if acknowledge is not None:
                acknowledge(result)
            return
        if not on.patient:
            link.began()
            result.add_done_callback(link.settled)

        def done(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                value = on.refuse(_text(event, error))
            else:
                value = on.refuse("Cancelled") if future.cancelled() else future.result()
            if acknowledge is not None:
                acknowledge(value)

        result.add_done_callback(done)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something beside, until it is done or the server stops."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ----------------------------------------------------------------------------------- handshake
    def expect_connect(self, eio_sid: str) -> None:
        """An engine connection on which nobody sends CONNECT is closed."""
        loop = asyncio.get_running_loop()
        self._expected[eio_sid] = loop.call_later(CONNECT_TIMEOUT, self._never_connected, eio_sid)

    def _never_connected(self, eio_sid: str) -> None:
        self._expected.pop(eio_sid, None)
        engine = self.sio.eio.sockets.get(eio_sid)
        if engine is not None:
            self.abort(engine)

    def abort(self, engine: Any) -> None:
        """Closes an engine socket soon, whatever it is doing."""
        self.spawn(_abort(engine))

    def ended(self, eio_sid: str) -> None:
        """The engine gave a socket up (a ping was not answered, the client left)."""
        timer = self._expected.pop(eio_sid, None)
        if timer is not None:
            timer.cancel()
        connection = getattr(self.sio.eio.sockets.get(eio_sid), "connection", None)
        if connection is not None:
            # Later, so that a last packet of the engine still goes out before.
            asyncio.get_running_loop().call_soon(connection.end)

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        """Checks in the order of protocol.md section 14; enters the room last, with no await after."""
        auth = auth if isinstance(auth, dict) else {}
        token = auth.get("token")
        if not isinstance(token, str) or not token:
            raise socketio.exceptions.ConnectionRefusedError("Missing authentication token")
        kind: Kind = "user"
        id: Any = ""
        match auth.get("clientType"):
            case "session-scoped":
                kind, id = "session", auth.get("sessionId")
                if not isinstance(id, str) or not id:
                    raise socketio.exceptions.ConnectionRefusedError("Session ID required for session-scoped clients")
            case "machine-scoped":
                kind, id = "machine", auth.get("machineId")
                if not isinstance(id, str) or not id:
                    raise socketio.exceptions.ConnectionRefusedError("Machine ID required for machine-scoped clients")
        account_id = await gate.account_of(self.house, token)
        if account_id is None:
            raise socketio.exceptions.ConnectionRefusedError("Invalid authentication token")
        eio_sid = self.sio.manager.eio_sid_from_sid(sid, "/")
        engine = self.sio.eio.sockets.get(eio_sid)
        if engine is None or engine.closed:
            raise socketio.exceptions.ConnectionRefusedError("Connection closed")
        timer = self._expected.pop(eio_sid, None)
        if timer is not None:
            timer.cancel()
        link = Link(self.house, sid, account_id, kind, id, engine)
        client = auth.get("happyClient")
        link.client = client[:100] if isinstance(client, str) else ""
        link.app_state = "active" if auth.get("appState") == "active" else "background"
        self.links[sid] = link
        self.house.rooms.enter(link)
        for hook in self.hooks.connected:
            hook(link)

    def _disconnect(self, sid: str, reason: str) -> None:
        link = self.links.pop(sid, None)
        if link is None:
            return
        self.house.rooms.leave(link)
        link.close()
        for hook in self.hooks.disconnected:
            hook(link, reason)

    def sign_out(self, account_id: str) -> None:
        """Ends every socket of an account."""
        for peer in self.house.rooms.account(account_id):
            cast("Link", peer).drop()

    async def close(self) -> None:
        """Ends every socket so that clients come back by themselves, and what handlers still do.

        Hypercorn does not stop on Python 3.12 and later while a websocket is open (its issue 308).
        """
        for timer in self._expected.values():
            timer.cancel()
        for engine in list(self.sio.eio.sockets.values()):
            await _abort(engine)
        for task in list(self._tasks):
            task.cancel()


def _text(event: str, error: BaseException) -> str:
    """What an ack says about an error; what is our fault goes to the log."""
    if isinstance(error, Refused):
        return error.problem.error
    if isinstance(error, msgspec.ValidationError | UnicodeError | RecursionError):
        return "Invalid parameters"
    if isinstance(error, Unavailable):
        return str(error)
    log.error("event %s", event, exc_info=error)
    return "Internal error"


def collect(tables: Iterable[Mapping[str, On]]) -> dict[str, On]:
    """One table of all domains' events; a name that stands twice is a mistake."""
    events: dict[str, On] = {}
    for table in tables:
        twice = events.keys() & table.keys()
        assert not twice, f"{twice} handled twice"
        events.update(table)
    return events
