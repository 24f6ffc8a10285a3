"""Websockets. After the HTTP server's 101 the connection belongs to a `WebSocketTransport`.

A frame goes from the network to the dispatcher, and a packet from the bus to the network, in one step each: no
task, queue or buffer of the HTTP server is left for the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from happy_light.clients import DisconnectReason
from happy_light.clients.packets import Packet
from happy_light.live import frames
from happy_light.live.frames import FrameError, FrameReader
from happy_light.live.socket_packets import PacketError
from happy_light.live.transport import UNAUTHENTICATED_MAX, Connections, Transport

log = logging.getLogger(__name__)

WRITE_HIGH: Final = 256 * 1024  # bytes that wait in the connection from which on `limit_unread` is asked
CLOSE_TIMEOUT: Final = 2.0  # s that a client gets to answer a close frame
MESSAGES_AT_ONCE: Final = 100  # of one connection, before the event loop goes on with the others
CONTROLS_MAX: Final = 100  # pings and whatever else leads to no event that are read from one client in a second
SMALL_FRAGMENT: Final = 1024  # bytes of a fragment below which it counts as one of these

_INVALID_DATA: Final = 1007  # text that is not UTF-8


class WebSocketTransport(Transport, asyncio.Protocol):
    """A websocket. `writer` is what the HTTP server had of it; `lost` is called when its connection is closed."""

    holds_connection = True
    __slots__ = (
        "_close_timer", "_congested", "_controls", "_controls_since", "_frames", "_held", "_later", "_lost", "_network",
        "_writer",
    )  # fmt: skip

    def __init__(
        self, connections: Connections, address: str, writer: asyncio.StreamWriter, lost: Callable[[], None]
    ) -> None:
        self._frames = FrameReader(UNAUTHENTICATED_MAX)
        super().__init__(connections, address)
        self._writer: asyncio.StreamWriter | None = writer  # kept, since its end would close the connection
        self._network = writer.transport
        self._network.set_write_buffer_limits(high=WRITE_HIGH)
        self._lost = lost
        self._congested = False
        self._held: list[bytes] | None = None  # frames that are written when the cork is released
        self._close_timer: asyncio.TimerHandle | None = None
        self._controls = 0  # how many were counted since `_controls_since`, a time of the event loop in s
        self._controls_since = 0.0
        self._later: asyncio.Handle | None = None
        """What goes on with the messages that have arrived; until then nothing is read."""

    def begin(self) -> None:
        """Send the OPEN packet."""
        self.opened()
        self.send(self.connections.open_packet(self, []))

    # ------------------------------------------------------------------------------------- sending
    def send(self, packet: Packet) -> None:
        """Send a packet without waiting; do nothing after the end."""
        if self.closed:
            return
        if self._held is not None:
            self._held.append(packet.frame)
        elif self.connections.cork.holds:
            self._held = [packet.frame]
            self.connections.cork.add(self._flush)
        else:
            self._network.write(packet.frame)
            if self._congested:
                self.limit_unread(self._network.get_write_buffer_size())

    def _flush(self) -> None:
        """Write what is held, before anything else."""
        held, self._held = self._held, None
        if held is None or self._network.is_closing():
            return
        if len(held) == 1:
            self._network.write(held[0])
        else:
            self._network.writelines(held)
        if self._congested and not self.closed:
            self.limit_unread(self._network.get_write_buffer_size())

    def pause_writing(self) -> None:
        """Remember that the client reads slower than it is written to (asyncio)."""
        self._congested = True

    def resume_writing(self) -> None:
        """Remember that the client has caught up (asyncio)."""
        self._congested = False

    # ----------------------------------------------------------------------------------- receiving
    def data_received(self, data: bytes) -> None:
        """Handle the messages that these bytes complete (asyncio)."""
        if not self.closed:
            self._frames.feed(data)
            self._handle_messages()

    def _handle_messages(self) -> None:
        """Handle messages that have arrived, until nothing more is to be read from the client for now."""
        reader = self._frames
        try:
            for _ in range(MESSAGES_AT_ONCE):
                if self.closed or self._later is not None or (self.client is not None and self.client.paused):
                    break
                message = reader.next()
                if message is None:
                    break
                opcode, payload = message
                if self._counted:
                    self.count_incomplete()  # without this message, which is counted with its event
                if opcode == frames.TEXT:
                    self.receive(payload)
                elif opcode == frames.BINARY:
                    self.receive_binary(payload)
                elif opcode == frames.CLOSE:
                    self._close_received(payload)
                else:
                    self._control_received(opcode, payload)
            else:
                self._handle_later(0)
            if self._counted or self._binary is not None or reader.buffered:
                self.count_incomplete()
        except FrameError as error:
            log.info("a client sent a malformed or too large websocket frame (%s)", error)
            self.end("transport error", error.code)
        except UnicodeDecodeError:
            self.end("transport error", _INVALID_DATA)
        except PacketError as error:
            self.malformed(error)

    def _control_received(self, opcode: int, payload: bytes) -> None:
        """Answer a ping, and count what leads to no event: pings, pongs and small fragments. Raises PacketError."""
        if opcode == frames.PING:
            self.send(frames.pong(payload))
        if self.client is None:
            self._count_unauthenticated(0 if opcode == frames.CONTINUATION else len(payload))
        elif opcode != frames.CONTINUATION or len(payload) < SMALL_FRAGMENT:
            self.count_control()

    def count_control(self) -> None:
        """Count a frame or packet of a client that leads to no event; after CONTROLS_MAX let the second pass."""
        self._controls += 1
        if self._controls >= CONTROLS_MAX:
            now = asyncio.get_running_loop().time()
            wait = max(self._controls_since + 1 - now, 0.0)
            self._controls, self._controls_since = 0, now + wait
            if wait:
                self._handle_later(wait)

    def _handle_later(self, seconds: float) -> None:
        """Read nothing until then, and go on with the messages that have arrived."""
        if self._later is None and not self.closed:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(seconds, self._go_on) if seconds else loop.call_soon(self._go_on)
            self.pause_reading()

    def _go_on(self) -> None:
        self._later = None
        if self.client is None or not self.client.paused:
            self.resume_reading()

    def _close_received(self, payload: bytes) -> None:
        self._finish("transport close")
        self._say_goodbye(frames.close_answer(payload))

    def pause_reading(self) -> None:
        """Leave what the client sends next in the network."""
        if not self._network.is_closing():
            self._network.pause_reading()  # type: ignore[attr-defined]

    def resume_reading(self) -> None:
        """Undo `pause_reading`, and handle what had arrived before it."""
        if self._later is None and not self._network.is_closing():
            self._network.resume_reading()  # type: ignore[attr-defined]
            self._handle_messages()

    @property
    def incomplete(self) -> int:
        """How many bytes of packets that are not complete are in memory."""
        return self._frames.buffered + (0 if self._binary is None else self._binary.size)

    def _set_limit(self, size: int) -> None:
        self._frames.max_size = size

    # --------------------------------------------------------------------------------------- ending
    def _close(self, code: int) -> None:
        self._say_goodbye(frames.close_frame(code))

    def _say_goodbye(self, close_frame: bytes) -> None:
        if self._network.is_closing():
            return
        self._flush()
        self._network.write(close_frame)
        self._network.close()
        self._close_timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._network.abort)

    def _abort(self) -> None:
        self._network.abort()

    def eof_received(self) -> None:
        """Let asyncio close the connection: the client sends nothing more (asyncio)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End, if the network has ended first (asyncio)."""
        if not self.closed:
            self._finish("transport close")
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._writer = None
        self._lost()

    def _finish(self, reason: DisconnectReason) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        super()._finish(reason)
        self._frames.clear()
