"""Accepting connections: as many as there are file handles for, and not all of them from one address.

Event loops accept without a bound, and fail in their own ways when the handles of the process have run out. So a
listener here asks for room before a connection is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

HANDLES_WANTED: Final = 65_536
HANDLES_RESERVED: Final = 128  # for the database, the operator, other servers; at most half of what there are
_BATCH: Final = 64  # connections that are accepted before other work gets its turn
_PAUSE: Final = 1.0  # s without accepting, when the system has refused it
_SAY_EVERY: Final = 60.0  # s between two warnings of the same kind

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Callable[[], None]], Awaitable[None]]
"""Serves one connection, and calls its last argument when the connection is closed."""


def raise_handle_limit() -> None:
    """Let this process have as many file handles as it is allowed to, up to HANDLES_WANTED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HANDLES_WANTED if hard == resource.RLIM_INFINITY else min(hard, HANDLES_WANTED)
    for limit in (wanted, 10_240):  # macOS allows no more, whatever its limit says
        if soft != resource.RLIM_INFINITY and soft < limit:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                return


def connections_max() -> int:
    """Return how many connections there are handles for; a request may have a file open beside its connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    handles = HANDLES_WANTED if soft == resource.RLIM_INFINITY else soft
    return max(1, (handles - min(HANDLES_RESERVED, handles // 2)) // 2)


class Room:
    """The connections of a server: how many are open, also of each address, and how many may be.

    `key_of` returns what the address of a peer is counted by, "" for one that is not counted. One address may have
    `address_max` connections (0: any number), and at most half of all.
    """

    def __init__(self, total: int, address_max: int = 0, key_of: Callable[[str], str] = lambda address: "") -> None:
        self.total = total
        self.address_max = min(address_max or total, max(1, total // 2))
        self.key_of = key_of
        self.make_room: list[Callable[[], bool]] = []
        """Called in turn when all are taken: each ends the connection of a stranger, or returns False."""
        self.open = 0
        self._by_key: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def enter(self, key: str) -> bool:
        """Count a connection, if there is room for it or room can be made; return whether that is so."""
        if key and self._by_key.get(key, 0) >= self.address_max:
            self.say(f"{key} has {self.address_max} connections; it gets no more (ADDRESS_CONNECTIONS)", key="address")
            return False
        if self.open >= self.total and not any(make() for make in self.make_room):
            self.say(f"{self.total} connections are open, for more there are no file handles (ulimit -n); "
                     "newcomers are refused", key="total")  # fmt: skip
            return False
        self.open += 1
        if key:
            self._by_key[key] = self._by_key.get(key, 0) + 1
        return True

    def leave(self, key: str) -> None:
        """Stop counting a connection that is closed."""
        self.open -= 1
        if key:
            count = self._by_key[key] - 1
            if count:
                self._by_key[key] = count
            else:
                del self._by_key[key]

    def say(self, text: str, key: str) -> None:
        """Log a warning, unless one with the same key was logged within the last minute."""
        now = time.monotonic()
        if now >= self._said.get(key, 0.0):
            self._said[key] = now + _SAY_EVERY
            log.warning("%s", text)


class Listener:
    """Accepts the connections of one listening socket, as long as `room` has room for them.

    `tls` is asked for each connection; `handshake`: s that TLS may take to begin.
    """

    def __init__(
        self,
        listening: socket.socket,
        serve: Serve,
        room: Room,
        tls: Callable[[], ssl.SSLContext | None],
        handshake: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._serve = serve
        self._room = room
        self._tls = tls
        self._handshake = handshake
        self._resume: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept nothing more."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._room.say(f"no connection can be accepted: {error.strerror}", key="accept")
                self._loop.remove_reader(self._socket)
                self._resume = self._loop.call_later(_PAUSE, self._accept_again)
                return
            key = self._room.key_of(peer[0]) if isinstance(peer, tuple) else ""
            if not self._room.enter(key):
                connection.close()
                continue
            task = self._loop.create_task(self._open(connection, key))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _accept_again(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    async def _open(self, connection: socket.socket, key: str) -> None:
        """Make a transport of a connection; with TLS, shake hands first."""
        left = _Once(self._room, key)
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, left)

        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=self._loop), serve, loop=self._loop)
        tls = self._tls()
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=self._handshake if tls else None
            )
        except (OSError, asyncio.CancelledError):  # ssl.SSLError too; CancelledError: the server stops
            with contextlib.suppress(OSError):
                connection.close()
            left()


class _Once:
    """Stops counting a connection, once, however often it is called."""

    __slots__ = ("_key", "_room")

    def __init__(self, room: Room, key: str) -> None:
        self._room: Room | None = room
        self._key = key

    def __call__(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.leave(self._key)
