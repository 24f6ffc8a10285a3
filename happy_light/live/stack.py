"""python-socketio and its engine, with what of them is ours instead.

Every private name of these libraries that is overridden is overridden here; tests/test_handshake.py notices
when one of them changes its meaning.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import engineio
import engineio.async_socket
import engineio.payload
import socketio
from engineio.packet import MESSAGE as EIO_MESSAGE
from engineio.packet import PING as EIO_PING
from engineio.packet import Packet as EioPacket

from happy_light import json_codec
from happy_light.live import client as client_module
from happy_light.live import takeover
from happy_light.live.client import PACKET_MAX

if TYPE_CHECKING:
    from happy_light.live.server import SocketServer

log = logging.getLogger(__name__)

PING_INTERVAL: Final = 15  # s
PING_TIMEOUT: Final = 45  # s
ATTACHMENTS_MAX: Final = 16  # binary attachments of one event; no client of ours sends any

# Over polling a burst arrives as one payload; the library's 16 would end the connection.
engineio.payload.Payload.max_decode_packets = 10_000

Refusal = socketio.exceptions.ConnectionRefusedError
"""What a connect handler raises: the client gets its text as connect_error."""


class _Codec:
    """msgspec in the place of json."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return json_codec.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return json_codec.decode(text)


class _Packet(socketio.packet.Packet):  # type: ignore[misc]
    """The library's `json=` would set the codec for every client and server in this process."""

    json = _Codec


class _Queue(asyncio.Queue[Any]):
    """A client's outgoing packets, with their size: the library's own queue has no bound."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self.waiting = 0

    def put_message(self, payload: bytes) -> None:
        """A Socket.IO packet for the client."""
        self.put_nowait(EioPacket(EIO_MESSAGE, payload.decode()))

    def end(self) -> None:
        """Tells everybody who waits for a packet that no more will come: several polls, if their client left them."""
        for _ in range(max(1, len(self._getters))):  # type: ignore[attr-defined]
            self.put_nowait(None)

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
    live: SocketServer

    def create_queue(self, *args: Any, **kwargs: Any) -> _Queue:
        return _Queue(*args, **kwargs)

    def _log_error_once(self, message: str, message_key: str) -> None:
        # What a client does wrong is no error of the server; the key, since the message may name a connection.
        log.info("a client's request is refused (%s)", message_key)


class _Socket(engineio.async_socket.AsyncSocket):  # type: ignore[misc]
    """An engine connection with a timer of its own.

    The library's wait for a ping is a task that outlives the connection, and it looks for silent clients in a
    copy of all connections: both keep what has ended in memory for most of a minute.
    """

    last_ping: float | None  # s; None while no pong is waited for
    _timer: asyncio.TimerHandle | None = None

    def schedule_ping(self) -> None:
        """At the beginning and after each pong: the next ping is due."""
        if self.last_ping:
            self.last_ping = None
            self._later(self.server.ping_interval, self._send_ping)

    def _send_ping(self) -> None:
        if not self.closing and not self.closed:
            self.last_ping = time.time()
            self.queue.put_nowait(EioPacket(EIO_PING))
            self._later(self.server.ping_timeout, self._miss_pong)

    def _miss_pong(self) -> None:
        if self.last_ping:
            self.server.live.spawn(self.close(wait=False, reason=self.server.reason.PING_TIMEOUT))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, action)

    async def close(self, wait: bool = True, abort: bool = False, reason: Any = None) -> None:
        await super().close(wait=wait, abort=abort, reason=reason)
        if self._timer is not None:
            self._timer.cancel()
        self.server.sockets.pop(self.sid, None)

    async def receive(self, pkt: EioPacket) -> None:
        """As the library's, but a type that there is not ends the connection: no traceback, and no wait for a poll."""
        try:
            await super().receive(pkt)
        except (IndexError, ValueError, engineio.exceptions.EngineIOError) as error:
            log.info("a client sent what is no Engine.IO packet (%s)", type(error).__name__)
            await client_module.abort(self)


class _Manager(socketio.AsyncManager):  # type: ignore[misc]
    """Who is connected to the namespace, and no rooms: those are in rooms.py.

    The library's own scans every room when a client goes.
    """

    live: SocketServer

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

    live: SocketServer

    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self.live.expect_connect(eio_sid, environ["asgi.scope"])
        # The library makes its sockets of a class that nobody can name to it.
        self.eio.sockets[eio_sid].__class__ = _Socket

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        if (namespace or "/") == "/":
            await super()._handle_connect(eio_sid, namespace, data)
            return
        # The library says no with a bare string, and JavaScript clients read `message` of an object.
        refusal = {"message": "Invalid namespace"}
        await self._send_packet(eio_sid, _Packet(socketio.packet.CONNECT_ERROR, data=refusal, namespace=namespace))

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
                await client_module.abort(engine)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        link = self.live.links.get(self.manager.sid_from_eio_sid(eio_sid, namespace or "/"))
        if link is None or not isinstance(data, list) or not data or not isinstance(data[0], str):
            return
        self.live.dispatch(link, data[0], data[1:], id)
        if link.is_busy:
            idle = asyncio.Event()
            link.when_idle(idle.set)
            await idle.wait()

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        self.live.ended(eio_sid)


def server(live: SocketServer) -> Any:
    """The Socket.IO server of one live edge."""
    manager = _Manager()
    sio = _Server(
        async_mode="asgi",
        client_manager=manager,
        cors_allowed_origins="*",
        ping_interval=PING_INTERVAL,
        ping_timeout=PING_TIMEOUT,
        max_http_buffer_size=PACKET_MAX,
        monitor_clients=False,  # each connection looks after itself
        serializer=_Packet,
        logger=logging.getLogger("happy_light.socketio"),
        engineio_logger=logging.getLogger("happy_light.engineio"),
    )
    for name in ("happy_light.socketio", "happy_light.engineio"):
        logging.getLogger(name).setLevel(logging.WARNING)  # below that they log what travels
    manager.live = sio.live = sio.eio.live = live

    class WebSocket(takeover.WebSocket):
        pass

    WebSocket.live = live
    sio.eio._async = {**sio.eio._async, "websocket": WebSocket}
    return sio
