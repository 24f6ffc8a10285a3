"""The fast way to a websocket: after Hypercorn's 101 this file takes the connection's transport over.

Hypercorn's own path costs several tasks, queues and a pure-Python frame parser for every packet. Here a
frame goes from the transport to the dispatch, and from the bus to the transport, in one step each.
Framing is the sans-I/O half of the `websockets` library. Where the transport cannot be found (another
server, a middleware that wraps `send`), python-socketio's stock path does the work, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from engineio.async_drivers.asgi import WebSocket as StockWebSocket
from engineio.packet import CLOSE as EIO_CLOSE
from engineio.packet import Packet as EioPacket
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from happy_light import json_codec

if TYPE_CHECKING:
    from happy_light.live.client import Link
    from happy_light.live.server import SocketServer

log = logging.getLogger(__name__)
# The library logs what travels when its logger is at DEBUG; what travels is not for the log.
_FRAME_LOG = logging.getLogger("happy_light.frames")
_FRAME_LOG.setLevel(logging.WARNING)

QUEUE_MAX: Final = 16_000_000  # bytes that wait for a client which does not read; then it is dropped
RECEIVE_MAX: Final = 32 * 1024  # bytes at once; asyncio's 256 KiB buffer costs more than it saves
WRITE_HIGH: Final = 256 * 1024  # bytes in the transport's buffer from which on its size is watched
CLOSING_MAX: Final = 2.0  # s that a client gets to answer a close frame
SLOW_MAX: Final = 1_000  # packets that may wait behind a CONNECT that is being checked


def frame(payload: bytes) -> bytes:
    """A text frame of the server, ready for the transport; the same for every receiver (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Connection(asyncio.Protocol):
    """A taken-over transport: the protocol behind it, and the engine's outgoing queue."""

    def __init__(
        self, live: SocketServer, engine: Any, transport: asyncio.Transport, original: asyncio.Protocol, maximum: int
    ) -> None:
        self.link: Link | None = None
        self._live = live
        self._engine = engine
        self._transport = transport
        self._original: asyncio.Protocol | None = original
        self._frames = ServerProtocol(state=OPEN, max_size=maximum, logger=_FRAME_LOG)
        self._parts: list[bytes] = []  # of a fragmented message
        self._text = True
        self._slow: list[str | bytes] | None = None  # packets behind one that the engine is working on
        self._congested = False
        self._ended = False
        self.lost = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------------------------------- sending
    def send(self, framed: bytes) -> None:
        """Writes a frame; a client that does not read is dropped at the bound."""
        if self._ended:
            return
        self._transport.write(framed)
        if self._congested and self._transport.get_write_buffer_size() > QUEUE_MAX:
            log.warning("a client does not read; it is dropped")
            self.abort()

    def put_nowait(self, packet: EioPacket | None) -> None:
        """The engine's own packets (open, ping, close) and those of python-socketio."""
        if packet is None:
            self.end()
            return
        encoded = packet.encode()
        if isinstance(encoded, str):
            self.send(frame(encoded.encode()))
        else:
            self.send(Frame(Opcode.BINARY, encoded).serialize(mask=False))
        if packet.packet_type == EIO_CLOSE:
            self.end()

    async def put(self, packet: EioPacket | None) -> None:
        self.put_nowait(packet)

    async def join(self) -> None:
        """Nothing waits here: what was put is with the transport."""

    def task_done(self) -> None:
        """See join."""

    def empty(self) -> bool:
        return True

    def end(self, code: int = CloseCode.NORMAL_CLOSURE) -> None:
        """Says goodbye and closes; a client that does not answer is cut off."""
        if self._ended:
            return
        self._ended = True
        if self._frames.state is OPEN:  # not if a broken frame, already read, has ended it
            self._frames.send_close(code)
        self._flush()
        self._transport.close()
        asyncio.get_running_loop().call_later(CLOSING_MAX, self._transport.abort)

    def abort(self) -> None:
        """Cuts the connection now."""
        self._ended = True
        self._transport.abort()

    def _flush(self) -> None:
        for data in self._frames.data_to_send():
            if data:
                self._transport.write(data)
            else:  # the protocol is at its end: everything is said
                self._ended = True
                self._transport.close()

    # ----------------------------------------------------------------------------------- receiving
    def data_received(self, data: bytes) -> None:
        frames = self._frames
        frames.receive_data(data)
        for received in frames.events_received():
            assert isinstance(received, Frame)
            opcode = received.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.BINARY or opcode is Opcode.CONT:
                if received.fin and opcode is not Opcode.CONT:
                    self._message(bytes(received.data), opcode is Opcode.TEXT)
                else:
                    self._part(received)
            if self._ended:
                break
        if frames.parser_exc is not None and not self._ended:
            log.info("a client sent what is no frame, or too large a one (%s)", type(frames.parser_exc).__name__)
        if frames.writes:
            self._flush()

    def _part(self, received: Frame) -> None:
        if received.opcode is not Opcode.CONT:
            self._text = received.opcode is Opcode.TEXT
        self._parts.append(bytes(received.data))
        if received.fin:
            payload = b"".join(self._parts)
            self._parts.clear()
            self._message(payload, self._text)

    def _message(self, payload: bytes, text: bool) -> None:
        """One Engine.IO packet. Events and acks take the short way, the rest goes through the engine."""
        if not text:
            self._through_engine(payload)
            return
        link = self.link
        if link is not None and self._slow is None:
            kind = payload[:2]
            if kind == b"42" or kind == b"43":
                end = payload.find(b"[", 2, 20)
                if end == 2 or (end > 2 and payload[2:end].isdigit()):
                    self._packet(link, kind, payload, end)
                    return
            elif payload == b"3":
                self._engine.schedule_ping()
                return
        try:
            self._through_engine(payload.decode())
        except UnicodeDecodeError:
            self.end(CloseCode.INVALID_DATA)

    def _packet(self, link: Link, kind: bytes, payload: bytes, start: int) -> None:
        try:
            args = json_codec.decode(memoryview(payload)[start:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # As the original does with what it cannot parse.
            self._live.abort(self._engine)
            return
        id = int(payload[2:start]) if start > 2 else None
        if kind == b"43":
            if id is not None:
                link.answered(id, args)
            return
        if args and isinstance(args[0], str):
            self._live.dispatch(link, args[0], args[1:], id)
            if link.is_busy:
                self._transport.pause_reading()
                link.when_idle(self._resume)

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _through_engine(self, packet: str | bytes) -> None:
        """In order, one after the other: what follows a CONNECT waits until that is decided."""
        if self._slow is not None:
            self._slow.append(packet)
            if len(self._slow) > SLOW_MAX:
                self.abort()
            return
        self._slow = [packet]
        self._live.spawn(self._drain(self._slow))

    async def _drain(self, packets: list[str | bytes]) -> None:
        index = 0
        try:
            while index < len(packets):
                packet = packets[index]
                index += 1
                try:
                    await self._engine.receive(EioPacket(encoded_packet=packet))
                except Exception as error:
                    log.info("a client sent what is no Engine.IO packet (%s)", type(error).__name__)
                    self._live.abort(self._engine)
                    return
        finally:
            self._slow = None

    # ------------------------------------------------------------------------------- the transport
    def pause_writing(self) -> None:
        self._congested = True
        if self._original is not None:
            self._original.pause_writing()

    def resume_writing(self) -> None:
        self._congested = False
        if self._original is not None:
            self._original.resume_writing()

    def eof_received(self) -> None:
        # So that the transport closes: Hypercorn's protocol would keep it half-open, until a ping is not answered.
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        # Hypercorn's own task ends only when its protocol hears of this.
        self._ended = True
        original, self._original = self._original, None
        if original is not None:
            original.connection_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)


class WebSocket:
    """What the engine calls for a websocket, in the place of its own class of that name."""

    live: SocketServer

    def __init__(self, handler: Any, server: Any) -> None:
        self._handler = handler
        self._server = server

    async def __call__(self, environ: dict[str, Any]) -> Any:
        engine = self._handler.__self__
        send = environ["asgi.send"]
        behind = None if engine.connected else _connection_behind(send)  # connected: it comes from polling
        if behind is None:
            return await StockWebSocket(self._handler, self._server)(environ)
        transport = behind.writer.transport
        await send({"type": "websocket.accept"})
        behind.flush()
        if transport.is_closing():  # the client has left meanwhile; uvloop's transport has no protocol any more
            await engine.close(wait=False, abort=True, reason=self._server.reason.TRANSPORT_CLOSE)
            return ""
        # From here to set_protocol nothing may wait, or frames reach the wrong protocol.
        original = transport.get_protocol()
        assert isinstance(original, asyncio.Protocol)
        connection = Connection(self.live, engine, transport, original, self._server.max_http_buffer_size)
        transport.set_protocol(connection)
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_MAX
        engine.connected = engine.upgraded = True
        while not engine.queue.empty():
            connection.put_nowait(engine.queue.get_nowait())
        engine.queue = engine.connection = connection
        # The request is answered; it need not stay in memory as long as the connection.
        environ["asgi.scope"]["headers"] = ()
        environ.clear()
        del environ, send, behind, transport, original
        await connection.lost
        await engine.close(wait=False, abort=True, reason=self._server.reason.TRANSPORT_CLOSE)
        return ""


def _connection_behind(send: Any) -> Any:
    """Hypercorn's connection, found from the `send` it gave to the application; None if it is not one of ours."""
    try:
        connection = send.__self__.send.__self__.send.__self__
        if hasattr(connection.writer.transport, "set_protocol") and callable(connection.flush):
            return connection
    except AttributeError:
        pass
    log.warning("the transport behind a websocket was not found; the slower stock path is used")
    return None
