"""Several processes that are one server: updates in order, calls, presence and sign-outs across them, and outages."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests import commands
from tests.client import Account, Socket, World, uid
from tests.conftest import Process, Start
from tests.services import Databases, Redis, RedisCluster
from tests.test_recovery import Connected
from tests.test_stats import metrics_url

pytest_plugins = ["tests.service_fixtures"]


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


async def test_updates_of_both_processes_arrive_at_both_in_order(pair: Server) -> None:
    session = (await pair.first.session())["id"]
    sockets = [await account.socket() for account in (pair.first, pair.second) for _ in range(2)]

    async def write(account: Account) -> None:
        for _ in range(40):
            await account.send(session, uid())

    await asyncio.gather(*(write(account) for account in (pair.first, pair.second) for _ in range(2)))
    for socket in sockets:
        found = await seqs(socket, 160)
        assert found == list(range(found[0], found[0] + 160))
        await asyncio.sleep(0.1)
        assert await socket.heard("update") == []


async def test_the_sender_alone_is_spared(pair: Server) -> None:
    session = (await pair.first.session())["id"]
    sender, beside, elsewhere = await pair.first.socket(), await pair.first.socket(), await pair.second.socket()
    assert (await sender.call("message", {"sid": session, "message": "text"}))["ok"] is True
    assert (await elsewhere.wait("update"))["body"]["t"] == "new-message"
    assert len(await beside.heard("update")) == 1
    assert await sender.heard("update") == []


async def daemon(account: Account, answer: Any, method: str, machine: str | None = None) -> Socket:
    socket = await account.socket(machine=machine or uid())
    socket.answers["rpc-request"] = answer
    assert await socket.call("rpc-register", {"method": method}) == {"ok": True}
    return socket


async def test_a_call_reaches_a_method_in_the_other_process(pair: Server) -> None:
    phone = await pair.first.socket()

    async def echo(request: Any) -> Any:
        return {"got": request["params"]}

    await daemon(pair.second, echo, "m")
    answer = await phone.call("rpc-call", {"method": "m", "params": "x🙂"})
    assert answer == {"ok": True, "result": {"got": "x🙂"}}
    # The newest registration counts, wherever it is.
    await daemon(pair.first, "newer", "m")
    other = await pair.second.socket()
    assert await other.call("rpc-call", {"method": "m"}) == {"ok": True, "result": "newer"}


async def test_a_call_waits_for_a_daemon_that_comes_back_to_the_other_process(pair: Server) -> None:
    phone = await pair.first.socket()
    first = await daemon(pair.first, "old", "m")
    await first.close()
    call = asyncio.create_task(phone.call("rpc-call", {"method": "m"}))
    await asyncio.sleep(0.1)
    await daemon(pair.second, "new", "m")
    assert await call == {"ok": True, "result": "new"}


async def test_a_target_that_leaves_its_process_is_noticed_at_once(pair: Server) -> None:
    phone = await pair.first.socket()
    called = asyncio.Event()

    async def never(request: Any) -> Any:
        called.set()
        await asyncio.sleep(60)

    target = await daemon(pair.second, never, "m")
    call = asyncio.create_task(phone.call("rpc-call", {"method": "m"}))
    await called.wait()
    await target.close()
    async with asyncio.timeout(1):
        assert await call == {"ok": False, "error": "RPC target disconnected"}


async def test_a_target_whose_process_is_killed_is_noticed_in_time(own_pair: Server) -> None:
    phone = await own_pair.first.socket()
    machine = uid()
    called = asyncio.Event()

    async def never(request: Any) -> Any:
        called.set()
        await asyncio.sleep(60)

    await daemon(own_pair.second, never, "m", machine)
    call = asyncio.create_task(phone.call("rpc-call", {"method": "m"}, timeout=20))
    await called.wait()
    await phone.heard()
    own_pair.processes[1].kill()
    assert await call == {"ok": False, "error": "RPC target disconnected"}
    event = await phone.wait("ephemeral")
    assert (event["type"], event["id"], event["active"]) == ("machine-activity", machine, False)


async def test_the_last_socket_of_a_machine_counts_in_all_processes(pair: Server) -> None:
    phone = await pair.first.socket()
    machine = (await pair.first.machine())["id"]
    one, two = await pair.first.socket(machine=machine), await pair.second.socket(machine=machine)
    assert [(await phone.wait("ephemeral"))["active"] for _ in range(2)] == [True, True]
    await one.close()
    await asyncio.sleep(0.2)
    assert await phone.heard("ephemeral") == []
    await two.close()
    assert (await phone.wait("ephemeral"))["active"] is False
    await asyncio.sleep(0.3)
    assert await phone.heard("ephemeral") == []


async def test_sockets_that_leave_all_processes_at_once_are_announced_once(pair: Server) -> None:
    phone = await pair.first.socket()
    machine = (await pair.first.machine())["id"]
    both = [await account.socket(machine=machine) for account in (pair.first, pair.second)]
    assert [(await phone.wait("ephemeral"))["active"] for _ in range(2)] == [True, True]
    await asyncio.gather(*(socket.close() for socket in both))
    assert (await phone.wait("ephemeral"))["active"] is False
    await asyncio.sleep(0.3)
    assert await phone.heard("ephemeral") == []


async def test_a_session_that_moves_to_the_other_process_stays_active(pair: Server) -> None:
    session = (await pair.first.session())["id"]
    one = await pair.first.socket(session=session)
    await one.close()
    await pair.second.socket(session=session)
    await asyncio.sleep(1.5)  # longer than the grace
    (found,) = (await pair.first.ok("GET", "/v1/sessions"))["sessions"]
    assert found["active"] is True


async def test_an_app_in_the_foreground_elsewhere_suppresses_the_push(pair: Server) -> None:
    session = (await pair.first.session())["id"]
    phone = await pair.second.socket(appState="active")
    path, body = f"/v1/sessions/{session}/push-event", {"kind": "done", "title": "t", "body": "b"}
    assert (await pair.first.ok("POST", path, body))["result"] == "suppressed"
    assert await phone.call("app-state", {"state": "background"}) == {"ok": True}
    assert (await pair.first.ok("POST", path, body))["result"] == "no_tokens"


async def test_requests_to_upload_are_counted_in_all_processes(own_pair: Server, redis: Redis) -> None:
    session = (await own_pair.first.session())["id"]
    path, body = f"/v1/sessions/{session}/attachments/request-upload", {"filename": "f", "size": 1}
    for account in (own_pair.first, own_pair.second):
        assert [(await account.post(path, body)).status_code for _ in range(30)] == [200] * 30
    assert [(await account.post(path, body)).status_code for account in (own_pair.first, own_pair.second)] == [429] * 2
    redis.kill()
    await own_pair.processes[0].wait_for_log("was lost")
    assert (await own_pair.first.post(path, body)).status_code == 200, (
        "while Redis is away each process counts by itself"
    )


async def test_a_sign_out_holds_in_all_processes(pair: Server) -> None:
    sockets = [await pair.first.socket(), await pair.second.socket()]
    folder = pair.processes[0].folder
    environ = {"DATABASE_URL": "", "REDIS_URL": ""}  # over the admin socket, so that neither is needed
    done = await commands.run(folder, "accounts", "sign-out", pair.first.id, **environ)
    assert done.status == 0, done.err
    async with asyncio.timeout(1):
        await asyncio.gather(*(socket.dropped.wait() for socket in sockets))
    for account in (pair.first, pair.second):
        assert (await account.get("/v1/sessions")).status_code == 401


# ------------------------------------------------------------------------------------------ recovery
async def received(account: Account, *, session: str, **auth: Any) -> Connected:
    """Open a connection that has received a message."""
    connected = await Connected.open(account, **auth)
    await account.send(session, "before")
    while "before" not in connected.local_ids:
        await connected.receive()
    return connected


async def continues(account: Account, session: str, first: Connected) -> None:
    """Miss two messages, and check that a new connection of `account` continues with them where `first` ended."""
    await account.send(session, "missed 1", "missed 2")
    second = await Connected.open(account, pid=first.pid, offset=first.offset)
    assert (second.pid, second.sid) == (first.pid, first.sid)
    await account.send(session, "live")
    await second.receive()
    assert second.local_ids == (["missed 1", "missed 2", "live"])
    seqs = [event[1]["seq"] for event in second.events if event[0] == "update"]
    assert seqs == list(range(seqs[0], seqs[0] + 3))


@pytest.mark.parametrize("end", ["cut", "alive"])
async def test_a_client_continues_in_the_other_process(pair: Server, end: str) -> None:
    """Its connection was cut, or seems to be alive."""
    session = (await pair.second.session())["id"]
    first = await received(pair.first, session=session)
    if end == "cut":
        await first.cut()
    await continues(pair.second, session, first)


async def test_a_client_of_a_process_that_is_killed_continues_in_the_other(own_pair: Server) -> None:
    session = (await own_pair.second.session())["id"]
    first = await received(own_pair.first, session=session)
    own_pair.processes[0].kill()
    await continues(own_pair.second, session, first)


async def test_ephemeral_events_are_replayed_too(pair: Server) -> None:
    session = (await pair.second.session())["id"]
    agent = await pair.second.socket(session=session)
    first = await received(pair.first, session=session)
    pid, offset = await first.cut()
    now = int(time.time() * 1000)
    assert await agent.call("session-alive", {"sid": session, "time": now, "thinking": True}) == {"ok": True}
    second = await Connected.open(pair.second, pid=pid, offset=offset)
    events = [event[1] for event in await second.receive() if event[0] == "ephemeral"]
    assert [(event["type"], event["thinking"]) for event in events] == [("activity", True)]


async def test_who_left_or_was_signed_out_begins_anew(pair: Server) -> None:
    session = (await pair.second.session())["id"]
    first = await received(pair.first, session=session)
    pid, offset = first.pid, first.offset
    await first.wire.send("41")
    await first.wire.send('4298["ping"]')
    await asyncio.sleep(0.2)
    second = await Connected.open(pair.second, pid=pid, offset=offset)
    assert second.pid != pid and second.events == []


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
