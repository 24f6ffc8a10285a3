"""A server of several processes while Redis or one of them is away, and how it starts and what it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests import commands
from tests.client import World, uid
from tests.conftest import Start
from tests.process_fixtures import Server, daemon, seqs, signed_in
from tests.redis_services import Redis, RedisCluster
from tests.services import free_port
from tests.test_stats import metrics_url

pytest_plugins = ["tests.service_fixtures", "tests.process_fixtures"]


# ------------------------------------------------------------------------------------------- outages
async def test_without_redis_updates_still_arrive_and_afterwards_everything_works(
    own_pair: Server, redis: Redis
) -> None:
    session = (await own_pair.first.session())["id"]
    near, far = await own_pair.first.socket(), await own_pair.second.socket()
    await daemon(own_pair.second, "result", "m")
    redis.kill()
    for _ in range(5):
        await own_pair.first.send(session, uid())
    local = await seqs(near, 5)
    assert await seqs(far, 5) == local
    health = await own_pair.worlds[0].http.get("/health")
    assert (health.status_code, health.json()["missing"]) == (200, ["redis"])
    again = await own_pair.second.socket()  # connecting works too
    await own_pair.first.send(session, uid())
    assert await seqs(again, 1) == [local[-1] + 1] == await seqs(far, 1) == await seqs(near, 1)
    redis.start()
    async with asyncio.timeout(60):
        while (await near.call("rpc-call", {"method": "m"}, timeout=20)).get("result") != "result":
            await asyncio.sleep(0.05)
    await own_pair.second.send(session, uid())
    assert await seqs(near, 1) == [local[-1] + 2] == await seqs(far, 1)


async def test_a_call_during_an_outage_of_redis_finds_no_method(own_pair: Server, redis: Redis) -> None:
    phone = await own_pair.first.socket()
    await daemon(own_pair.second, "result", "m")
    redis.kill()
    await own_pair.processes[0].wait_for_log("was lost")
    answer = await phone.call("rpc-call", {"method": "m"}, timeout=20)
    assert answer == {"ok": False, "error": "RPC method not available"}


async def test_a_call_that_waits_goes_on_when_redis_is_back(own_pair: Server, redis: Redis) -> None:
    phone = await own_pair.first.socket()
    await daemon(own_pair.second, "result", "m")
    redis.kill()
    await own_pair.processes[0].wait_for_log("was lost")
    call = asyncio.create_task(phone.call("rpc-call", {"method": "m"}, timeout=12))  # it would wait for 15 s
    await phone.call("ping")  # the call has arrived before
    redis.start()
    assert await call == {"ok": True, "result": "result"}


async def test_a_call_that_reaches_no_process_ends_at_once(own_pair: Server, redis: Redis) -> None:
    """Its target's process connects again; else the call would wait 30 s for its answer."""
    phone = await own_pair.first.socket()
    await daemon(own_pair.second, "result", "m")
    own_pair.processes[1].process.send_signal(signal.SIGSTOP)
    try:
        redis.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        await own_pair.processes[0].wait_for_log("redis: connected to")
        answer = await phone.call("rpc-call", {"method": "m"}, timeout=12)
    finally:
        own_pair.processes[1].process.send_signal(signal.SIGCONT)
    assert answer == {"ok": False, "error": "RPC method not available"}


async def test_redis_may_be_a_cluster(start: Start, database_url: str, redis_cluster: RedisCluster) -> None:
    """Channels are spread over its servers; a slot that moves and a server that comes back are noticed."""
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_cluster.url}
    first, second = start(**environ), start(**environ)
    async with World(first.url) as one, World(second.url) as two:
        pairs = [(account, await two.account(account.key)) for account in [await one.account() for _ in range(4)]]
        sessions = [(await near.session())["id"] for near, _ in pairs]
        phones = [await near.socket() for near, _ in pairs]
        far = [await other.socket() for _, other in pairs]
        for _, other in pairs:
            await daemon(other, "result", "m")

        async def everything_works() -> None:
            for (near, _), session, phone, socket in zip(pairs, sessions, phones, far, strict=True):
                await near.send(session, uid())
                await socket.wait("update", 20)
                async with asyncio.timeout(60):
                    while (await phone.call("rpc-call", {"method": "m"}, timeout=20)).get("result") != "result":
                        await asyncio.sleep(0.05)

        await everything_works()
        channels = [name.decode() for node in redis_cluster.nodes for name in node.command("PUBSUB", "SHARDCHANNELS")]
        channel = next(name for name in channels if pairs[0][0].id in name)
        redis_cluster.move(channel)
        for process in (first, second):
            await process.wait_for_log("was lost: it no longer serves a channel")
        await everything_works()
        redis_cluster.nodes[0].kill()
        for (near, _), session, socket in zip(pairs, sessions, far, strict=True):
            await near.send(session, uid())
            await socket.wait("update", 20)
        redis_cluster.nodes[0].start()
        await everything_works()


async def test_a_process_that_stood_still_catches_up(own_pair: Server) -> None:
    """Others have declared it dead; when it goes on, its sockets are known again and hear what they missed."""
    session = (await own_pair.first.session())["id"]
    phone, far = await own_pair.first.socket(), await own_pair.second.socket()
    target = await daemon(own_pair.second, "result", "m")
    own_pair.processes[1].process.send_signal(signal.SIGSTOP)
    try:
        await own_pair.processes[0].wait_for_log("has not been heard of")
        for _ in range(3):
            await own_pair.first.send(session, uid())
    finally:
        own_pair.processes[1].process.send_signal(signal.SIGCONT)
    assert await seqs(far, 3) == await seqs(phone, 3)
    assert await phone.call("rpc-call", {"method": "m"}, timeout=20) == {"ok": True, "result": "result"}
    assert not target.dropped.is_set()


# -------------------------------------------------------------------------------------------- start
@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"REDIS_URL": "redis://:pw@127.0.0.1:1"}, "can only share a PostgreSQL database"),
        (
            {"REDIS_URL": "redis://:pw@127.0.0.1:1", "DATABASE_URL": "postgresql://h/d", "HANDY_MASTER_SECRET": ""},
            "HANDY_MASTER_SECRET is not",
        ),
        ({"REDIS_URL": "http://:pw@h"}, "should be a URL like redis://"),
    ],
)
async def test_settings_that_cannot_work_are_refused(environ: dict[str, str], sentence: str, tmp_path: Any) -> None:
    done = await commands.run(tmp_path, "serve", **environ)
    assert done.status == 2
    assert sentence in done.err and "pw" not in done.err and "Traceback" not in done.err


async def test_the_password_of_redis_is_not_shown(tmp_path: Any) -> None:
    done = await commands.run(
        tmp_path, "config", REDIS_URL="rediss://u:pw@h:7/2", DATABASE_URL="postgresql://h/d", HANDY_MASTER_SECRET="s"
    )
    assert "rediss://h:7/2" in done.out and "pw" not in done.out


async def test_metrics_say_what_processes_exchange(start: Start, database_url: str, redis: Redis) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis.url}
    first = start(**environ)
    second = start(**environ, METRICS_ENABLED="true")
    metrics = metrics_url(second)
    async with World(first.url) as one, World(second.url) as two:
        account = await one.account()
        other = await two.account(account.key)
        far = await other.socket()
        session = (await account.session())["id"]
        await account.send(session, uid())
        assert len(await seqs(far, 2)) == 2
        text = (await two.http.get(metrics)).text
    assert "cluster_redis_connected 1.0" in text
    assert "cluster_hints_total 2.0" in text
    assert "cluster_updates_healed_total 0.0" in text
    assert "cluster_call_duration_seconds_count 0.0" in text


async def test_doctor_examines_redis(start: Start, database_url: str, start_redis: Callable[..., Redis]) -> None:
    redis = start_redis(policy="allkeys-lru")
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis.url}
    server = start(**environ)
    found = {
        one["name"]: one["level"] for one in (await commands.run(server.folder, "doctor", "--json", **environ)).json
    }
    assert (found["redis"], found["redis memory"]) == ("ok", "warning")
    redis.kill()
    found = {
        one["name"]: one["level"] for one in (await commands.run(server.folder, "doctor", "--json", **environ)).json
    }
    assert found["redis"] == "problem" and "redis memory" not in found


# ------------------------------------------------------------------- one process without Redis
class Way:
    """A way to Redis that can be closed and opened again."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = free_port()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    def close(self) -> None:
        """Cut the connections, and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, redis_writer]
        await asyncio.gather(self._copy(reader, redis_writer), self._copy(redis_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()


async def test_a_sign_out_without_redis_reaches_the_other_processes_afterwards(
    start: Start, database_url: str, redis: Redis
) -> None:
    """The second process, which has Redis all the time, has verified the token before, and has no socket of it."""
    way = Way(redis.port)
    await way.open()
    urls = (f"redis://127.0.0.1:{way.port}/0", redis.url)
    loop = asyncio.get_running_loop()
    processes = [
        await loop.run_in_executor(None, partial(start, DATABASE_URL=database_url, REDIS_URL=url)) for url in urls
    ]
    try:
        async with signed_in(processes) as server:
            phone = await server.worlds[1].account(server.first.key)
            await phone.ok("GET", "/v1/machines")
            way.close()
            await processes[0].wait_for_log("was lost")
            arguments = ("accounts", "sign-out", phone.id, "--device", phone.claims["jti"])
            done = await commands.run(processes[0].folder, *arguments, DATABASE_URL="", REDIS_URL="")
            assert done.status == 0, done.err
            await way.open()
            async with asyncio.timeout(20):
                while (await phone.get("/v1/machines")).status_code != 401:
                    await asyncio.sleep(0.05)
            assert (await server.second.get("/v1/machines")).status_code == 200
    finally:
        way.close()
