"""What a process knows of the sockets of others, when Redis comes back at an awkward moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis as redis_client

from happy_light.cluster import messages
from happy_light.cluster.messages import RemoteClient
from happy_light.server import Server
from tests.client import World
from tests.redis_services import Redis

pytest_plugins = ["tests.service_fixtures"]
pytestmark = pytest.mark.slow  # a Redis of its own is killed and started


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_account_that_was_opened_while_redis_came_back_knows_the_sockets_of_others(
    inside: Callable[..., Awaitable[Server]], database_url: str, start_redis: Callable[..., Redis],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    redis = start_redis()
    server = await inside(database_url=database_url, redis_url=redis.url)
    cluster = server.context.cluster
    assert cluster is not None
    async with World(server.url) as world:
        account_id = (await world.account()).id
        redis.kill()
        await until(lambda: not cluster.link.is_connected)

        go_on, open_feed = asyncio.Event(), cluster.updates.open

        async def slowly(account_id: str) -> None:
            await open_feed(account_id)
            await go_on.wait()

        monkeypatch.setattr(cluster.updates, "open", slowly)
        loading = asyncio.ensure_future(cluster.load(account_id))
        await until(lambda: account_id in set(cluster.updates.sequencer.accounts()))
        redis.start()
        names = cluster._names
        elsewhere = RemoteClient("sid", "another", account_id, "user", "", in_foreground=True)
        with redis_client.from_url(redis.url) as client:
            client.set(names.process("another"), "")
            client.hset(names.clients(account_id), elsewhere.field, messages.encode_client(elsewhere))
        await until(lambda: cluster.link.is_connected)
        await cluster.link.ask(names.all, ("PING",))  # by now it has looked at what was open
        go_on.set()
        await loading
        await until(lambda: cluster.count(account_id) == 1)
