"""The connection of a process to Redis: made again whenever it is lost, to one server or to each node of a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from happy_light.cluster.redis_node import Command, RedisNode, Replies
from happy_light.config import RedisUrl

log = logging.getLogger(__name__)

_RETRY_FIRST, _RETRY_LAST = 0.1, 2.0  # s between attempts to connect
_SLOTS: Final = 16_384


class RedisLink:
    """Publishes, subscribes and runs commands, while Redis is there. Used on the event loop's thread.

    `receive` gets every message of the channels that were subscribed to; `connected` is called when all of them are
    subscribed to (again), `disconnected` when that is no longer so.
    """

    def __init__(
        self,
        url: RedisUrl,
        receive: Callable[[bytes], None],
        connected: Callable[[], None],
        disconnected: Callable[[], None],
    ) -> None:
        self._url = url
        self._seeds = [url.text]  # where to ask what servers there are
        self._receive = receive
        self._on_connected = connected
        self._on_disconnected = disconnected
        self.is_connected = False
        self._channels: set[str] = set()
        self._nodes: list[RedisNode] = []
        self._by_slot: list[RedisNode] | None = None  # of a cluster
        self._publish_word = "PUBLISH"
        self._lost = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._first_attempt: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Connect. Returns after the first attempt, whether or not Redis is there."""
        self._running = asyncio.create_task(self._run())
        await self._first_attempt

    async def close(self) -> None:
        """Send what waits and disconnect."""
        if self.is_connected:
            await asyncio.wait([node.ask(("PING",)) for node in self._nodes], timeout=1)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._close_nodes()

    # ------------------------------------------------------------------------------------------- use
    def send(self, key: str, *commands: Command) -> None:
        """Run commands about one key or channel, in the order of the calls; do nothing while Redis is away."""
        if self.is_connected:
            self._node(key).send(*commands)

    async def ask(self, key: str, *commands: Command) -> Replies | None:
        """Run commands about one key or channel and return their replies; None while Redis is away."""
        if not self.is_connected:
            return None
        replies = await self._node(key).ask(*commands)
        for reply in replies or ():
            if isinstance(reply, ResponseError):
                log.error("redis: %s", reply)
                return None
        return replies

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[Replies | None]:
        """Publish a message while Redis is there; return the future of [how many connections received it].

        Its result is None if the message was not sent, or if the connection was lost before the reply.
        """
        return self._node(channel).ask(self.publication(channel, payload))

    def publication(self, channel: str, payload: bytes) -> Command:
        """Return the command that publishes a message."""
        return (self._publish_word, channel, payload)

    async def subscribe(self, channel: str) -> None:
        """Receive what is published on a channel. Returns when that is so, or Redis is away."""
        self._channels.add(channel)
        if self.is_connected:
            await self._node(channel).subscribe(channel)

    def unsubscribe(self, channel: str) -> None:
        """Undo `subscribe`."""
        self._channels.discard(channel)
        if self.is_connected:
            self._node(channel).unsubscribe(channel)

    # -------------------------------------------------------------------------------------- connection
    def _node(self, key: str) -> RedisNode:
        if self._by_slot is None:
            return self._nodes[0]
        return self._by_slot[key_slot(key.encode())]

    async def _run(self) -> None:
        delay = _RETRY_FIRST
        away = False
        while True:
            self._lost.clear()
            try:
                await self._connect()
            except Exception as error:  # else the task would end, and a start would wait for it for ever
                if not isinstance(error, RedisError | OSError | TimeoutError):
                    log.exception("redis: connecting to %s failed", self._url)
                elif not away:
                    log.error("redis: no connection to %s: %s", self._url, error)
                away = True
                await self._close_nodes()
                self._attempted()
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_LAST)
                continue
            if away:
                log.warning("redis: connected to %s", self._url)
            delay, away = _RETRY_FIRST, True
            self.is_connected = True
            self._on_connected()
            self._attempted()
            await self._lost.wait()
            self.is_connected = False
            self._on_disconnected()
            await self._close_nodes()

    def _attempted(self) -> None:
        if not self._first_attempt.done():
            self._first_attempt.set_result(None)

    async def _connect(self) -> None:
        """Connect to the server or all nodes and subscribe. Raises RedisError, OSError."""
        self._by_slot = None
        first = await self._first_node()
        info = await self._reply(first, "INFO", "cluster")
        if b"cluster_enabled:1" in info:
            slots = await self._reply(first, "CLUSTER", "SLOTS")
            await self._close_nodes()
            await self._connect_to_cluster(slots)
        self._publish_word = "PUBLISH" if self._by_slot is None else "SPUBLISH"
        while channels := list(self._channels):
            confirmed = await asyncio.gather(*(self._node(channel).subscribe(channel) for channel in channels))
            if not all(confirmed):
                raise ConnectionError("it was lost again")
            if self._channels.issubset(channels):
                break

    async def _first_node(self) -> RedisNode:
        """Connect to the server of the URL or, while it is away, to one that belonged to its cluster."""
        for seed in self._seeds:
            node = RedisNode(seed, False, self._receive, self._lose)
            self._nodes = [node]
            try:
                await node.open()
            except (RedisError, OSError, TimeoutError) as error:
                failure = error
                continue
            return node
        raise failure

    async def _reply(self, node: RedisNode, *command: str) -> Any:
        replies = await node.ask(command)
        if replies is None:
            raise ConnectionError("it was lost again")
        if isinstance(replies[0], ResponseError):
            raise replies[0]
        return replies[0]

    async def _connect_to_cluster(self, slots: list[Any]) -> None:
        """Connect to the primary of each range of slots: [first, last, [host, port, …], replica, …]."""
        places = {(host.decode(), int(port)) for _, _, *servers in slots for host, port, *_ in servers}
        self._seeds = [self._url.text, *(self._url.at(*place) for place in sorted(places))]
        nodes: dict[tuple[str, int], RedisNode] = {}
        by_slot: list[RedisNode | None] = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in slots:
            address = (host.decode(), int(port))
            if address not in nodes:
                url = self._url.at(*address)
                nodes[address] = RedisNode(url, True, self._receive, self._lose)
                self._nodes.append(nodes[address])
                await nodes[address].open()
            by_slot[first : last + 1] = [nodes[address]] * (last + 1 - first)
        if None in by_slot:
            raise ConnectionError("some slots of the cluster are not served")
        self._by_slot = [node for node in by_slot if node is not None]

    def _lose(self, error: Exception) -> None:
        if self.is_connected:
            log.error("redis: the connection to %s was lost: %s", self._url, error)
        self._lost.set()

    async def _close_nodes(self) -> None:
        nodes, self._nodes = self._nodes, []
        self._by_slot = None
        for node in nodes:
            await node.close()
