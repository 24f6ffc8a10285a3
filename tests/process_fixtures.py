"""Two processes that are one server, with an account that is signed in at both. A plugin of pytest."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.client import Account, Socket, World, uid
from tests.conftest import Process, Start
from tests.redis_services import Redis
from tests.services import Databases


class Server:
    """Two processes, and an account that is signed in at both."""

    def __init__(self, processes: list[Process], worlds: list[World], accounts: list[Account]) -> None:
        self.processes = processes
        self.worlds = worlds
        self.first, self.second = accounts


@pytest.fixture
def redis(start_redis: Callable[..., Redis]) -> Redis:
    """Start a Redis that the test may kill."""
    return start_redis()


GRACE = {"HAPPY_SERVER_LIGHT_SESSION_GRACE": "1"}


@contextlib.asynccontextmanager
async def signed_in(processes: list[Process]) -> AsyncIterator[Server]:
    """Sign a new account in at both."""
    async with World(processes[0].url) as one, World(processes[1].url) as two:
        account = await one.account()
        yield Server(processes, [one, two], [account, await two.account(account.key)])


@pytest.fixture(scope="module")
def both(databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Start the two processes that the tests share."""
    folder = tmp_path_factory.mktemp("pair")
    with databases.database() as url:
        processes = [Process(folder, DATABASE_URL=url, REDIS_URL=redis_url, **GRACE) for _ in range(2)]
        yield processes
        assert [process.stop() for process in processes] == [0, 0]


@pytest.fixture
async def pair(both: list[Process]) -> AsyncIterator[Server]:
    """Sign in at the processes that the tests share."""
    async with signed_in(both) as pair:
        yield pair


@pytest.fixture
async def own_pair(start: Start, database_url: str, redis: Redis) -> AsyncIterator[Server]:
    """Start two processes for a test that harms them, or Redis."""
    async with signed_in([start(DATABASE_URL=database_url, REDIS_URL=redis.url, **GRACE) for _ in range(2)]) as pair:
        yield pair


async def seqs(socket: Socket, count: int) -> list[int]:
    """Return the seq of the next so many updates."""
    return [(await socket.wait("update", 20))["seq"] for _ in range(count)]


async def daemon(account: Account, answer: Any, method: str, machine: str | None = None) -> Socket:
    """Connect a machine that answers the calls of a method."""
    socket = await account.socket(machine=machine or uid())
    socket.answers["rpc-request"] = answer
    assert await socket.call("rpc-register", {"method": method}) == {"ok": True}
    return socket
