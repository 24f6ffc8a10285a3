"""A server of several processes that is measured, its services, and what they use."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from tests.bench import load
from tests.bench.scenarios import Row
from tests.hardness.several import Several
from tests.redis_services import Redis
from tests.services import Postgres

ACCOUNTS = 32


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used, its threads included (Linux)."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_of(pid: int) -> float:
    """Return the MB that are a process's own share (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    return 0.0


class Used:
    """What the processes and services have used so far: CPU in s, and bytes."""

    def __init__(self, place: Place) -> None:
        self.server = sum(cpu_of(process.pid) for process in place.server.processes)
        backends = psutil.Process(place.postgres.pid).children()
        self.postgres = sum(cpu_of(each.pid) for each in backends)
        self.redis = cpu_of(place.redis.pid)
        with psycopg.connect(place.postgres.url) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
            self.wal = float(row[0])
        with redis.Redis(port=place.redis.port) as client:
            stats: dict[str, Any] = client.info("stats")
            memory: dict[str, Any] = client.info("memory")
        self.redis_bytes = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
        self.redis_commands = stats["total_commands_processed"]
        self.redis_memory = memory["used_memory"]

    def since(self, before: Used, operations: int) -> Row:
        """Return what one operation used."""
        count = max(operations, 1)
        return {
            "server_us": (self.server - before.server) / count * 1e6,
            "postgres_us": (self.postgres - before.postgres) / count * 1e6,
            "redis_us": (self.redis - before.redis) / count * 1e6,
            "wal": (self.wal - before.wal) / count,
            "redis_bytes": (self.redis_bytes - before.redis_bytes) / count,
        }


class Place:
    """A server of several processes, its services, and accounts with a session each."""

    def __init__(self, server: Several, postgres: Postgres, redis: Redis) -> None:
        self.server = server
        self.postgres = postgres
        self.redis = redis
        self.tokens: list[str] = []
        self.sessions: list[str] = []

    async def populate(self) -> None:
        """Make the accounts."""
        for number in range(ACCOUNTS):
            token = await load.sign_in(self.url(number))
            self.tokens.append(token)
            self.sessions.append(await load.session(self.url(number), token, "s"))

    def url(self, number: int) -> str:
        """Return the URL of a process, counted on and on."""
        urls = self.server.urls
        return urls[number % len(urls)]

    async def phone(self, account: int, process: int, hear: Callable[[bytes], None] = lambda _: None) -> load.Socket:
        """Return a user-scoped socket of an account to a process."""
        auth = {"token": self.tokens[account], "clientType": "user-scoped"}
        return await load.Socket.open(self.url(process), auth, hear)

    async def agent(self, account: int, process: int) -> load.Socket:
        """Return a socket of the account's session to a process."""
        auth = {
            "token": self.tokens[account], "clientType": "session-scoped", "sessionId": self.sessions[account]
        }  # fmt: skip
        return await load.Socket.open(self.url(process), auth)

    def message(self, account: int, text: str) -> bytes:
        """Return the event with which the account's session sends a message."""
        return b'["message",{"sid":"%b","message":"%b"}]' % (self.sessions[account].encode(), text.encode())
