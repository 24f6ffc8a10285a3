"""Private Redis servers for tests, alone or as a cluster: on loopback, in folders of their own, made to be killed."""

from __future__ import annotations

import time
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.services import START_SECONDS, Service, free_port, program


class Redis(Service):
    """A private Redis that keeps nothing when it ends, unless `persistent`.

    `policy` says what it does when its memory is full. `cluster` makes it a cluster of one node, or with
    `join=False` a node that waits to be joined with others.
    Raises Missing when it is not installed.
    """

    name = "redis"

    def __init__(
        self, *, persistent: bool = False, cluster: bool = False, join: bool = True, policy: str = "noeviction"
    ) -> None:
        self._redis = program("redis-server", "Debian's package redis-server")
        super().__init__()
        self._settings = {"appendonly": "yes" if persistent else "no", "maxmemory-policy": policy}
        self._alone = cluster and join
        self.cluster_port = free_port()
        if cluster:
            settings = {
                "cluster-enabled": "yes",
                "cluster-port": str(self.cluster_port),
                "cluster-node-timeout": "2000",
            }
            self._settings |= settings

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start it and wait until it answers; a cluster, until all its slots are served."""
        super().start()
        if self._alone:
            if not self.command("CLUSTER", "SLOTS"):
                self.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            self.wait_for_cluster()
        return self

    def wait_for_cluster(self) -> None:
        """Wait until all slots are served, as far as it knows."""
        end = time.monotonic() + START_SECONDS
        while "cluster_state:ok" not in str(self.command("CLUSTER", "INFO")):
            assert time.monotonic() < end, f"the cluster did not become ready: {self.log[-2000:]}"
            time.sleep(0.01)

    def command(self, *words: str | int) -> Any:
        """Run a command and return its reply."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*words)

    def _command(self) -> list[str]:
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", **self._settings}
        return [self._redis, *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except RedisError:  # not yet listening, or still reading what it had kept
            return False


class RedisCluster:
    """A cluster of three private Redis servers. Raises Missing when Redis is not installed."""

    def __init__(self) -> None:
        self.nodes = [Redis(cluster=True, join=False) for _ in range(3)]

    @property
    def url(self) -> str:
        """Of its first server."""
        return self.nodes[0].url

    def start(self) -> Self:
        """Start the servers and join them; each serves a third of the slots."""
        size = 16_384
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.start()
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.command("CLUSTER", "ADDSLOTSRANGE", size * number // 3, size * (number + 1) // 3 - 1)
            node.command("CLUSTER", "MEET", "127.0.0.1", first.port, first.cluster_port)
        for node in self.nodes:
            node.wait_for_cluster()
        return self

    def remove(self) -> None:
        """Kill the servers and remove their folders."""
        for node in self.nodes:
            node.remove()

    def node_of(self, key: str) -> Redis:
        """Return the server that serves a key or channel."""
        slot = self.nodes[0].command("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in self.nodes[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody serves {key}")

    def move(self, key: str) -> None:
        """Let another server serve the slot of a key; what is in it is forgotten."""
        source = self.node_of(key)
        target = self.nodes[self.nodes.index(source) - 1]
        slot, id = target.command("CLUSTER", "KEYSLOT", key), target.command("CLUSTER", "MYID").decode()
        for name in source.command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source.command("DEL", name)
        for node in (target, *(node for node in self.nodes if node is not target)):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", id)
