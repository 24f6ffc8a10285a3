"""Several processes that are one server: updates in order, calls, presence, sign-outs and recovery across them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests import commands
from tests.client import Account, uid
from tests.process_fixtures import Server, daemon, seqs
from tests.redis_services import Redis
from tests.test_recovery import Connected

pytest_plugins = ["tests.service_fixtures", "tests.process_fixtures"]


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
