"""One Redis server: a connection for commands and one for subscriptions. Either both work or the node is lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 3.0  # s
SILENCE_MAX: Final = 5.0  # s in which a Redis that lives has answered a ping
PING_EVERY: Final = 2.0  # s
QUEUE_MAX: Final = 20_000  # commands that wait to be sent
QUEUE_BYTES_MAX: Final = 64_000_000

_ELSEWHERE: Final = ("MOVED", "CLUSTERDOWN", "READONLY", "LOADING")  # this node is not the one to talk to now

Command = tuple[str | bytes, ...]
Replies = list[Any]
"""A reply for each command of one `send`; ResponseError for one that was refused."""


class RedisNode:
    """Used on the event loop's thread. `receive` gets what is published; `lost` is called once, with the reason."""

    def __init__(
        self, url: str, sharded: bool, receive: Callable[[bytes], None], lost: Callable[[Exception], None]
    ) -> None:
        self._pool = ConnectionPool.from_url(
            url, protocol=2, decode_responses=False, socket_connect_timeout=CONNECT_TIMEOUT, socket_keepalive=True,
            socket_timeout=None,  # _ping looks for silence; with a timeout, redis writes in a task of its own
        )  # fmt: skip
        self._subscribe_word = "SSUBSCRIBE" if sharded else "SUBSCRIBE"
        self._unsubscribe_word = "SUNSUBSCRIBE" if sharded else "UNSUBSCRIBE"
        self._receive = receive
        self._lost = lost
        self._closed = True
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: deque[tuple[bytes, int, asyncio.Future[Replies | None] | None]] = deque()
        self._queued_bytes = 0
        self._queued = asyncio.Event()
        self._expected: deque[tuple[int, asyncio.Future[Replies | None] | None]] = deque()
        self._to_subscribe: list[tuple[str, str]] = []
        self._subscribing = asyncio.Event()
        self._confirmations: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._leaving: Counter[bytes] = Counter()  # channels by how many `unsubscribe` were not confirmed yet
        self._heard = 0.0

    async def open(self) -> None:
        """Connect. Raises RedisError, OSError."""
        make_connection: Callable[[], Any] = self._pool.make_connection
        self._commands, self._subscriptions = make_connection(), make_connection()
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                for connection in (self._commands, self._subscriptions):
                    await connection.connect()
        except BaseException:
            await self._disconnect()
            raise
        self._closed = False
        self._heard = asyncio.get_running_loop().time()
        for work in (self._write(), self._read_replies(), self._write_subscriptions(), self._read(), self._ping()):
            self._tasks.append(asyncio.create_task(self._guard(work)))

    async def close(self) -> None:
        """Disconnect; what waits for a reply gets None."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._let_go()
        await self._disconnect()

    # -------------------------------------------------------------------------------------- commands
    def send(self, *commands: Command) -> None:
        """Send commands, in the order of the calls. Nothing is sent if the connection is lost or too much waits."""
        self._send(commands, None)

    def ask(self, *commands: Command) -> asyncio.Future[Replies | None]:
        """Do the same and return the future of the replies; of None if nothing was sent or the connection is lost."""
        future: asyncio.Future[Replies | None] = asyncio.get_running_loop().create_future()
        self._send(commands, future)
        return future

    def _send(self, commands: tuple[Command, ...], future: asyncio.Future[Replies | None] | None) -> None:
        if self._closed or len(self._queue) >= QUEUE_MAX or self._queued_bytes > QUEUE_BYTES_MAX:
            if future is not None:
                future.set_result(None)
            return
        packed = b"".join(part for command in commands for part in self._commands.pack_command(*command))
        self._queue.append((packed, len(commands), future))
        self._queued_bytes += len(packed)
        self._queued.set()

    async def _write(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            pieces = []
            while self._queue:
                packed, count, future = self._queue.popleft()
                pieces.append(packed)
                self._expected.append((count, future))
            self._queued_bytes = 0
            await self._transmit(self._commands, pieces)

    async def _read_replies(self) -> None:
        while True:
            replies = [await self._reply(self._commands)]
            count, future = self._expected[0]  # until all replies are there, so that a loss in between is told
            while len(replies) < count:
                replies.append(await self._reply(self._commands))
            self._expected.popleft()
            if future is not None and not future.done():
                future.set_result(replies)

    async def _transmit(self, connection: Any, packed: list[bytes]) -> None:
        if not connection.is_connected:  # redis would connect again in silence, without the subscriptions
            raise ConnectionError("it has closed the connection")
        await connection.send_packed_command(packed, check_health=False)

    async def _reply(self, connection: Any) -> Any:
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            if str(error).startswith(_ELSEWHERE):
                raise ConnectionError(str(error)) from None
            reply = error
        self._heard = asyncio.get_running_loop().time()
        return reply

    # --------------------------------------------------------------------------------- subscriptions
    def subscribe(self, channel: str) -> asyncio.Future[bool]:
        """Subscribe to a channel. The future is true once Redis has confirmed it, false if the connection is lost."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(False)
            return future
        self._confirmations.setdefault(channel.encode(), []).append(future)
        self._to_subscribe.append((self._subscribe_word, channel))
        self._subscribing.set()
        return future

    def unsubscribe(self, channel: str) -> None:
        """Undo `subscribe`."""
        if self._closed:
            return
        self._leaving[channel.encode()] += 1
        self._to_subscribe.append((self._unsubscribe_word, channel))
        self._subscribing.set()

    async def _write_subscriptions(self) -> None:
        while True:
            await self._subscribing.wait()
            self._subscribing.clear()
            commands, self._to_subscribe = self._to_subscribe, []
            await self._transmit(self._subscriptions, self._subscriptions.pack_commands(commands))

    async def _read(self) -> None:
        while True:
            reply = await self._reply(self._subscriptions)
            if isinstance(reply, ResponseError):
                raise reply
            match reply:
                case [b"message" | b"smessage", _, payload]:
                    self._receive(payload)
                case [b"unsubscribe" | b"sunsubscribe", channel, _]:
                    if not self._leaving[channel]:  # its slot has moved to another node of the cluster
                        raise ConnectionError("it no longer serves a channel")
                    self._leaving -= Counter([channel])
                case [b"subscribe" | b"ssubscribe", channel, _]:
                    for future in self._confirmations.pop(channel, ()):
                        if not future.done():
                            future.set_result(True)

    # ------------------------------------------------------------------------------------------ ends
    async def _ping(self) -> None:
        while True:
            asked = asyncio.get_running_loop().time()
            self.send(("PING",))
            await self._transmit(self._subscriptions, self._subscriptions.pack_command("PING"))
            await asyncio.sleep(PING_EVERY)
            if self._heard < asked:
                await asyncio.sleep(SILENCE_MAX - PING_EVERY)
                if self._heard < asked:
                    raise ConnectionError("it does not answer")

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # a task that ended in silence would leave this process deaf or mute
            if not isinstance(error, RedisError | OSError | TimeoutError):
                log.exception("redis: a task of the connection failed")
            if not self._closed:
                self._closed = True
                self._let_go()
                self._lost(error)

    def _let_go(self) -> None:
        """Tell everybody who waits that nothing comes."""
        waiting = [*self._expected, *((count, future) for _, count, future in self._queue)]
        self._expected.clear()
        self._queue.clear()
        for _, future in waiting:
            if future is not None and not future.done():
                future.set_result(None)
        confirmations, self._confirmations = self._confirmations, {}
        for futures in confirmations.values():
            for confirmed in futures:
                if not confirmed.done():
                    confirmed.set_result(False)

    async def _disconnect(self) -> None:
        for connection in (self._commands, self._subscriptions):
            try:
                await connection.disconnect(nowait=True)
            except (RedisError, OSError):
                continue
