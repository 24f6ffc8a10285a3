"""An Engine.IO connection: its packets, pings, time limits and end, whatever carries it (Engine.IO, revision 4).

A subclass carries packets over a websocket or over HTTP long-polling. Before its CONNECT is accepted a connection
has no client: it may send little, must connect within 20 s, and counts against the limit of its address.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from typing import Any, Final

from happy_light import json_codec
from happy_light.clients import Client, DisconnectReason
from happy_light.clients.packets import Packet
from happy_light.clients.timeouts import Timeouts
from happy_light.errors import ApiError, ServiceUnavailable
from happy_light.http.limits import Limits
from happy_light.live import socket_packets
from happy_light.live.cork import Cork
from happy_light.live.dispatch import Dispatcher
from happy_light.live.handshake import ConnectRefused, ConnectRequest, Handshake, check
from happy_light.live.socket_packets import IncompletePacket, PacketError, SocketPacket

log = logging.getLogger(__name__)

PACKET_MAX: Final = 100_000_000  # bytes of one packet
UNAUTHENTICATED_MAX: Final = 64 * 1024  # bytes that a connection may send before its CONNECT is accepted
UNREAD_MAX: Final = 16_000_000  # bytes that may wait for a client which does not read
UNREAD_UNAUTHENTICATED_MAX: Final = 512 * 1024  # the same before its CONNECT is accepted; the kernel's come on top
WAITING_MAX: Final = 1_000  # packets that may wait behind a CONNECT whose token is being verified
_PACKET_COST: Final = 16  # bytes by which every packet of an unauthenticated connection counts more than it has

PING_INTERVAL: Final = 15  # s
PING_TIMEOUT: Final = 45  # s
CONNECT_TIMEOUT: Final = 20  # s

_PING: Final = Packet(b"2")


class Connections:
    """The open connections of one server by Engine.IO id, their time limits, and what their packets lead to."""

    def __init__(self, handshake: Handshake, dispatcher: Dispatcher, limits: Limits, cork: Cork) -> None:
        self.handshake = handshake
        self.dispatcher = dispatcher
        self.limits = limits
        self.cork = cork
        self.by_id: dict[str, Transport] = {}
        self.connect_timeouts: Timeouts[Transport] = Timeouts(CONNECT_TIMEOUT, Transport.connect_timed_out)
        self.ping_intervals: Timeouts[Transport] = Timeouts(PING_INTERVAL, Transport.ping)
        self.ping_timeouts: Timeouts[Transport] = Timeouts(PING_TIMEOUT, Transport.ping_timed_out)

    def __len__(self) -> int:
        return len(self.by_id)

    def close(self) -> None:
        """End every connection, so that clients come back by themselves."""
        for transport in list(self.by_id.values()):
            transport.end("server disconnect")
        for timeouts in (self.connect_timeouts, self.ping_intervals, self.ping_timeouts):
            timeouts.clear()

    def drop_stranger(self) -> bool:
        """Cut off the connection that has gone without a CONNECT for longest; return whether there was one."""
        while len(self.connect_timeouts):
            transport = self.connect_timeouts.oldest()
            transport.drop()
            if transport.holds_connection:
                return True
        return False

    def open_packet(self, transport: Transport, upgrades: list[str]) -> Packet:
        """Return the OPEN packet that begins a connection."""
        settings = {
            "sid": transport.id,
            "upgrades": upgrades,
            "pingTimeout": round(self.ping_timeouts.seconds * 1000),
            "pingInterval": round(self.ping_intervals.seconds * 1000),
            "maxPayload": PACKET_MAX,
        }
        return Packet(b"0" + json_codec.encode(settings))


class Transport(ABC):
    """One connection. `address` is where it comes from, as `Limits.address` has it."""

    holds_connection = False
    """Whether it has a network connection of its own."""

    __slots__ = (
        "__weakref__", "_binary", "_counted", "_received", "_waiting", "address", "client", "closed", "connections",
        "id", "verification",
    )  # fmt: skip

    def __init__(self, connections: Connections, address: str) -> None:
        self.connections = connections
        self.address = address
        self.id = secrets.token_urlsafe(15)
        self.client: Client | None = None
        self.closed = False
        self._received = 0  # bytes since it began or its client left
        self._waiting: list[bytes] | None = None  # packets behind a CONNECT whose token is being verified
        self.verification: asyncio.Task[None] | None = None
        """What verifies that token."""
        self._binary: IncompletePacket | None = None
        self._counted = 0  # bytes of incomplete packets that are counted as the account's

    # ------------------------------------------------------------------------------ for subclasses
    @abstractmethod
    def send(self, packet: Packet) -> None:
        """Send a packet without waiting; do nothing after the end. Keeps to `limit_unread`."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Leave what the client sends next in the network."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Undo `pause_reading`."""

    def count_control(self) -> None:  # noqa: B027 - polling has a request for every body of them
        """Count a frame or packet of a client that leads to no event; a websocket reads only so many a second."""

    @abstractmethod
    def _set_limit(self, size: int) -> None:
        """Take no messages of more bytes."""

    @abstractmethod
    def _close(self, code: int) -> None:
        """Close what carries the packets, after what is on its way; `code` is for a websocket's close frame."""

    @abstractmethod
    def _abort(self) -> None:
        """Close what carries the packets, and throw away what is on its way."""

    def opened(self) -> None:
        """Begin: count the connection, and limit its time."""
        self.connections.by_id[self.id] = self
        self.connections.ping_intervals.start(self)
        self._expect_connect()

    def limit_unread(self, size: int) -> None:
        """Drop the client if it has left too many bytes unread. It is gone soon, but not during this call."""
        if size > (UNREAD_MAX if self.client is not None else UNREAD_UNAUTHENTICATED_MAX):
            asyncio.get_running_loop().call_soon(self._drop_unread)

    def _drop_unread(self) -> None:
        if not self.closed:
            log.warning("a client does not read what is sent to it; its connection is closed")
            self.drop()

    def drop(self) -> None:
        """End the connection at once, and throw away what is on its way."""
        if not self.closed:
            self._finish("server disconnect")
            self._abort()

    # ------------------------------------------------------------------------------------- packets
    def receive(self, payload: bytes) -> None:
        """Handle one text packet; most are events and acks of clients. Raises PacketError, UnicodeDecodeError."""
        client, kind = self.client, payload[:2]
        if client is not None and self._binary is None and kind in (b"42", b"43"):
            start = payload.find(b"[", 2, 22)
            digits = payload[2:start]
            if start == 2 or (start > 2 and digits.isdigit()):
                id = int(digits) if digits else None
                data = socket_packets.decode_json(payload, start)
                if kind == b"42":
                    self._event(client, id, data, len(payload))
                elif id is not None:
                    client.answered(id, data)
                return
        payload.decode()  # raises what the docstring says
        if client is None:
            self._count_unauthenticated(len(payload))
        if self._waiting is not None:
            self._waiting.append(payload)
            if len(self._waiting) > WAITING_MAX:
                raise PacketError("too many packets follow a CONNECT")
            return
        kind = payload[:1]
        if kind == b"4":
            self._message(payload[1:])
        elif kind == b"3":
            self.count_control()
            if self.connections.ping_timeouts.stop(self):
                self.connections.ping_intervals.start(self)
        elif kind == b"1":
            self.end("client disconnect")
        elif kind == b"5":  # an UPGRADE that comes late changes nothing
            self.count_control()
        else:
            raise PacketError("no Engine.IO packet of a client has this type")

    def receive_binary(self, payload: bytes) -> None:
        """Handle one binary packet, which is an attachment. Raises PacketError."""
        if self.client is None:
            self._count_unauthenticated(len(payload))
        if self._binary is None:
            raise PacketError("an attachment of no packet")
        packet = self._binary.add(payload)
        if packet is not None:
            size = self._binary.size
            self._binary = None
            self._handle(packet, size)
        self.count_incomplete()

    @property
    def incomplete(self) -> int:
        """How many bytes of packets that are not complete are in memory."""
        return 0 if self._binary is None else self._binary.size

    def count_incomplete(self) -> None:
        """Count them as the account's. Raises PacketError if it has too many; those of strangers are few anyway."""
        client, size = self.client, self.incomplete
        if client is None or (size <= Limits.BODY_FREE and not self._counted):
            return
        limits = self.connections.limits
        size = size if size > Limits.BODY_FREE else 0
        if size > self._counted:
            try:
                limits.reserve_body(client.account_id, size - self._counted)
            except ApiError as error:
                raise PacketError(str(error)) from None
        else:
            limits.release_body(client.account_id, self._counted - size)
        self._counted = size

    def _release_incomplete(self, client: Client) -> None:
        if self._counted:
            self.connections.limits.release_body(client.account_id, self._counted)
            self._counted = 0

    def _count_unauthenticated(self, size: int) -> None:
        self._received += size + _PACKET_COST
        if self._received > UNAUTHENTICATED_MAX:
            raise PacketError("too much before CONNECT")

    def _message(self, payload: bytes) -> None:
        if self._binary is not None:
            raise PacketError("a packet in the place of an attachment")
        if not socket_packets.has_attachments(payload):
            self._handle(socket_packets.decode(payload), len(payload))
        elif self.client is None:
            raise PacketError("attachments before CONNECT")
        else:
            from happy_light.live.binary_packets import BinaryPacket

            self._binary = BinaryPacket(payload)

    def _handle(self, packet: SocketPacket, size: int) -> None:
        """Handle one whole Socket.IO packet of so many bytes."""
        client, data = self.client, packet.data
        if packet.kind == socket_packets.CONNECT_ERROR:
            raise PacketError("a client sends no CONNECT_ERROR")
        if packet.namespace != "/":
            self.count_control()
            if packet.kind == socket_packets.CONNECT:
                # JavaScript clients read `message` of an object.
                self._refuse("Invalid namespace", packet.namespace.encode() + b",")
        elif packet.kind == socket_packets.CONNECT:
            if client is None:
                self._connect(data)
        elif client is None:
            pass  # not connected: its packets mean nothing
        elif packet.kind == socket_packets.DISCONNECT:
            self.count_control()
            self._disconnect("client disconnect")
            self._expect_connect()
        elif packet.kind in (socket_packets.EVENT, socket_packets.BINARY_EVENT):
            self._event(client, packet.id, data, size)
        elif packet.id is not None:
            client.answered(packet.id, data if isinstance(data, list) else [])

    def _event(self, client: Client, id: int | None, data: Any, size: int) -> None:
        if isinstance(data, list) and data and isinstance(data[0], str):
            self.connections.dispatcher.dispatch(client, data[0], data[1] if len(data) > 1 else None, id, size)

    # ----------------------------------------------------------------------------------- handshake
    def _connect(self, auth: Any) -> None:
        handshake = self.connections.handshake
        try:
            request = check(auth)
            account_id = handshake.account_at_once(request)
            if account_id is not None:
                self._accept(request, account_id)
                return
        except ConnectRefused as refused:
            self._refuse_connect(refused)
            return
        self._waiting = []
        self.verification = self.connections.dispatcher.spawn(self._verify_and_accept(request))

    async def _verify_and_accept(self, request: ConnectRequest) -> None:
        try:
            account_id = await self.connections.handshake.account(request)
            if not self.closed:
                self._accept(request, account_id)
        except ConnectRefused as refused:
            self._refuse_connect(refused)
        except ServiceUnavailable as error:  # the client comes back by itself
            log.error("a socket cannot connect: %s", error)
            self.end("server disconnect")
        finally:
            waiting, self._waiting, self.verification = self._waiting or [], None, None
        for index, payload in enumerate(waiting):
            if self.closed:
                return
            if self._waiting is not None:  # one of them was a CONNECT again
                self._waiting += waiting[index:]
                return
            self.receive_or_end(payload)

    def _accept(self, request: ConnectRequest, account_id: str) -> None:
        client, recovered = self.connections.handshake.accept(request, account_id, self)
        self._stop_expecting_connect()
        self.client = client
        self._set_limit(PACKET_MAX)
        log.debug(
            "socket of account %s connected from %s: %s-scoped %s, client %r",
            account_id, self.address or "this computer", client.kind, client.id, client.happy_client,
        )  # fmt: skip
        ids = {"sid": client.sid, "pid": client.pid} if client.pid else {"sid": client.sid}
        self.send(Packet(b"40" + json_codec.encode(ids)))
        for packet in () if recovered is None else recovered.missed:
            self.send(packet)
        self.connections.handshake.enter(client, recovered)

    def _refuse_connect(self, refused: ConnectRefused) -> None:
        log.info("socket refused from %s: %s", self.address or "this computer", refused)
        self._refuse(str(refused))

    def _refuse(self, message: str, namespace: bytes = b"") -> None:
        self.send(Packet(b"44" + namespace + json_codec.encode({"message": message})))

    def _expect_connect(self) -> None:
        self._received = 0
        self._set_limit(UNAUTHENTICATED_MAX)
        self.connections.limits.add_unauthenticated(self.address)
        self.connections.connect_timeouts.start(self)

    def _stop_expecting_connect(self) -> None:
        if self.connections.connect_timeouts.stop(self):
            self.connections.limits.remove_unauthenticated(self.address)

    def connect_timed_out(self) -> None:
        """End the connection, on which nobody has sent an acceptable CONNECT in time."""
        self.connections.limits.remove_unauthenticated(self.address)
        self.end("server disconnect")

    # ---------------------------------------------------------------------------------------- pings
    def ping(self) -> None:
        """Send a ping; the client has to answer it in time."""
        self.connections.ping_timeouts.start(self)
        self.send(_PING)

    def ping_timed_out(self) -> None:
        """End the connection, whose client has not answered a ping."""
        self.end("ping timeout")

    # --------------------------------------------------------------------------------------- ending
    def receive_or_end(self, payload: bytes) -> None:
        """Handle one text packet; end the connection if it is none."""
        try:
            self.receive(payload)
        except (PacketError, UnicodeDecodeError) as error:
            self.malformed(error)

    def malformed(self, error: Exception) -> None:
        """End the connection, whose client has sent something that is no packet."""
        log.info("a client's packet is refused (%s); its connection is closed", error)
        self.end("server disconnect")

    def end(self, reason: DisconnectReason, code: int = 1000) -> None:
        """End the connection, unless it has ended already; `code` is for a websocket's close frame."""
        if not self.closed:
            self._finish(reason)
            self._close(code)

    def _finish(self, reason: DisconnectReason) -> None:
        """Let go of everything that the connection has."""
        self.closed = True
        connections = self.connections
        connections.by_id.pop(self.id, None)
        connections.ping_intervals.stop(self)
        connections.ping_timeouts.stop(self)
        self._stop_expecting_connect()
        self._disconnect(reason)
        if self._waiting is not None:
            self._waiting.clear()
        self._binary = None

    def _disconnect(self, reason: DisconnectReason) -> None:
        client, self.client = self.client, None
        if client is not None:
            self._release_incomplete(client)
            self.connections.handshake.leave(client, reason)
