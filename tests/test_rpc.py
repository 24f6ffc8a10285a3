"""RPC: a call finds the socket that registered its method, and always gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from happy_light.clients import directory
from happy_light.domains.rpc import registry
from happy_light.server import Server
from tests.client import Account, Socket, World, uid

UNAVAILABLE = {"ok": False, "error": "RPC method not available"}


async def register(socket: Socket, *methods: str) -> None:
    """Register and check what the server says to it."""
    for method in methods:
        await socket.emit("rpc-register", {"method": method})
        assert await socket.wait("rpc-registered") == {"method": method}


async def daemon(account: Account, answer: Any, *methods: str) -> Socket:
    """Return a machine's socket that answers these methods."""
    socket = await account.socket(machine=uid())
    socket.answers["rpc-request"] = answer
    await register(socket, *methods)
    return socket


async def test_a_call_is_passed_on_and_its_answer_back(world: World) -> None:
    alice = await world.account()
    target = await daemon(alice, "result", "m:spawn")
    ui = await alice.socket()
    assert await ui.call("rpc-call", {"method": "m:spawn", "params": "encrypted"}) == {"ok": True, "result": "result"}
    assert await target.heard() == [("rpc-request", {"method": "m:spawn", "params": "encrypted"})]
    assert await ui.heard() == []


@pytest.mark.parametrize("params", [None, 5, 1.5, "", "\x00🙂", [], {"a": [1, {"b": None}]}, True, 2**53])
async def test_params_and_results_travel_as_they_are(world: World, params: Any) -> None:
    alice = await world.account()

    async def echo(request: Any) -> Any:
        return (request["params"],)  # the tuple of the ack's arguments: a bare None would be no argument

    await daemon(alice, echo, "m")
    ui = await alice.socket()
    assert await ui.call("rpc-call", {"method": "m", "params": params}) == {"ok": True, "result": params}


async def test_absent_params_stay_absent_and_an_empty_ack_has_no_result(world: World) -> None:
    alice = await world.account()
    target = await daemon(alice, (), "m")  # an empty tuple is an ack without arguments
    ui = await alice.socket()
    assert await ui.call("rpc-call", {"method": "m"}) == {"ok": True}
    assert await target.heard() == [("rpc-request", {"method": "m"})]


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"method": 5}, {"method": ""}, {"params": 1}])
async def test_a_call_without_a_method_is_refused(world: World, data: Any) -> None:
    ui = await (await world.account()).socket()
    assert await ui.call("rpc-call", data) == {"ok": False, "error": "Invalid parameters: method is required"}


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"method": 5}, {"method": ""}])
@pytest.mark.parametrize("kind", ["register", "unregister"])
async def test_a_bad_method_name_is_an_rpc_error(world: World, kind: str, data: Any) -> None:
    ui = await (await world.account()).socket()
    assert (await ui.call(f"rpc-{kind}", data))["ok"] is False
    assert await ui.heard() == [("rpc-error", {"type": kind, "error": "Invalid method name"})]


async def test_ones_own_method_cannot_be_called(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    await register(ui, "mine")
    answer = {"ok": False, "error": "Cannot call RPC on the same socket"}
    assert await ui.call("rpc-call", {"method": "mine"}) == answer


async def test_the_newest_living_socket_answers_and_ones_end_leaves_the_others(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    await daemon(alice, "old", "m")
    new = await daemon(alice, "new", "m")
    assert (await ui.call("rpc-call", {"method": "m"}))["result"] == "new"
    await new.close()
    while (await ui.wait("ephemeral"))["active"]:  # until the server knows that it is gone
        pass
    assert (await ui.call("rpc-call", {"method": "m"}))["result"] == "old"


async def test_unregistering_ends_it_for_this_socket_only(world: World) -> None:
    alice = await world.account()
    await daemon(alice, "old", "m")
    new = await daemon(alice, "new", "m", "other")
    await new.emit("rpc-unregister", {"method": "m"})
    assert await new.wait("rpc-unregistered") == {"method": "m"}
    ui = await alice.socket()
    assert (await ui.call("rpc-call", {"method": "m"}))["result"] == "old"
    assert (await ui.call("rpc-call", {"method": "other"}))["result"] == "new"


async def test_a_method_belongs_to_its_account(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    await daemon(alice, "alice", "m")
    await daemon(mallory, "mallory", "m")
    assert (await (await alice.socket()).call("rpc-call", {"method": "m"}))["result"] == "alice"
    assert (await (await mallory.socket()).call("rpc-call", {"method": "m"}))["result"] == "mallory"


async def test_a_caller_waits_for_a_target_that_reconnects(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    calls = [asyncio.create_task(ui.call("rpc-call", {"method": "m", "params": i})) for i in range(3)]
    await ui.call("ping")
    await daemon(alice, "here", "m")
    assert await asyncio.gather(*calls) == [{"ok": True, "result": "here"}] * 3


async def test_a_target_that_comes_and_goes_again_is_still_waited_for(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    call = asyncio.create_task(ui.call("rpc-call", {"method": "m"}))
    await ui.call("ping")
    flighty = await daemon(alice, "gone", "m")
    await flighty.call("rpc-unregister", {"method": "m"})
    done, _ = await asyncio.wait({call}, timeout=1)
    assert not done
    await daemon(alice, "back", "m")
    assert await call == {"ok": True, "result": "back"}


async def test_a_method_that_is_registered_before_the_caller_waits_is_found(
    inside: Callable[[], Awaitable[Server]],
) -> None:
    """What other sockets and processes do between the decision to wait and the wait itself is not missed."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        phone, daemon = await alice.socket(), await alice.socket(machine=uid())
        calls = server.context.rpc
        calls.appear = 3600
        sid = daemon.sio.get_sid()
        assert calls.target(alice.id, "m", "other") is None
        waiting = asyncio.ensure_future(calls.wait_for_target(alice.id, "m", "other"))
        calls.register(alice.id, sid, "m")  # before the task has begun
        assert await asyncio.wait_for(waiting, 20) == sid
        assert await phone.call("ping") == {}


async def test_nobody_in_time_is_not_available(inside: Callable[[], Awaitable[Server]]) -> None:
    assert registry.APPEAR == 15
    server = await inside()
    server.context.rpc.appear = 0.3
    async with World(server.url) as world:
        alice = await world.account()
        ui = await alice.socket()
        flighty = await daemon(alice, "gone", "m")
        await flighty.call("rpc-unregister", {"method": "m"})
        calls = [ui.call("rpc-call", {"method": method}) for method in ("m", "m", "nobody")]
        assert await asyncio.gather(*calls) == [UNAVAILABLE] * 3
        assert await flighty.heard("rpc-request") == []
        assert server.context.rpc.is_idle, "nothing is kept of what has ended"


async def test_a_target_that_does_not_answer_is_a_timeout(inside: Callable[[], Awaitable[Server]]) -> None:
    assert directory.CALL_TIMEOUT == 30
    server = await inside()
    server.context.clients.call_timeouts.seconds = 1.0
    async with World(server.url) as world:
        alice = await world.account()
        asked = asyncio.Event()

        async def late(_: Any) -> str:
            await asked.wait()
            return "late"

        await daemon(alice, late, "m")
        ui = await alice.socket()
        late_answer = {"ok": False, "error": "operation has timed out"}
        assert await ui.call("rpc-call", {"method": "m"}) == late_answer
        asked.set()
        again = await ui.call("rpc-call", {"method": "m"})  # what came too late is nobody's
        assert again == {"ok": True, "result": "late"}
        assert await ui.heard() == []


async def test_a_target_that_goes_is_told_at_once(world: World) -> None:
    alice = await world.account()
    asked = asyncio.Event()

    async def never(request: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    target = await daemon(alice, never, "m")
    ui = await alice.socket()
    call = asyncio.create_task(ui.call("rpc-call", {"method": "m"}, timeout=25))
    await asked.wait()
    await target.close()
    assert await call == {"ok": False, "error": "RPC target disconnected"}


async def test_a_slow_call_does_not_hold_up_other_events(world: World) -> None:
    alice = await world.account()
    asked, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(request: Any) -> str:
        asked.release()
        await release.wait()
        return "late"

    await daemon(alice, slow, "m")
    ui = await alice.socket()
    calls = [asyncio.create_task(ui.call("rpc-call", {"method": "m"}, timeout=25)) for _ in range(400)]
    async with asyncio.timeout(20):
        for _ in calls:  # every one of them is at the target, and none is answered
            await asked.acquire()
    assert await ui.call("ping") == {}
    release.set()
    assert await asyncio.gather(*calls) == [{"ok": True, "result": "late"}] * 400


async def test_a_caller_that_leaves_does_not_hurt_the_target(world: World) -> None:
    alice = await world.account()
    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> str:
        asked.set()
        await release.wait()
        return "x"

    target = await daemon(alice, slow, "m")
    ui = await alice.socket()
    call = asyncio.create_task(ui.call("rpc-call", {"method": "m"}))
    await asked.wait()
    await ui.close()
    call.cancel()
    release.set()
    assert await target.call("ping") == {}
    again = await alice.socket()
    assert await again.call("rpc-call", {"method": "m"}) == {"ok": True, "result": "x"}


async def test_two_sockets_may_call_each_other_at_once(world: World) -> None:
    alice = await world.account()
    a, b = await daemon(alice, "a", "a"), await daemon(alice, "b", "b")
    calls = [a.call("rpc-call", {"method": "b"}) for _ in range(50)]
    calls += [b.call("rpc-call", {"method": "a"}) for _ in range(50)]
    answers = await asyncio.gather(*calls)
    assert answers == [{"ok": True, "result": "b"}] * 50 + [{"ok": True, "result": "a"}] * 50


async def test_ping_and_app_state_are_answered(world: World) -> None:
    ui = await (await world.account()).socket()
    assert await ui.call("ping") == {}
    assert await ui.call("ping", {"x": 1}) == {}
    for data in ({"state": "active"}, {"state": "background"}, {}, None, 5):
        assert await ui.call("app-state", data) == {"ok": True}


async def test_app_state_decides_whether_a_push_is_needed(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    event = {"kind": "done", "title": "t", "body": "b"}

    async def result() -> str:
        await asyncio.sleep(Socket.lag)
        answer: str = (await alice.ok("POST", f"/v1/sessions/{session}/push-event", event))["result"]
        return answer

    assert await result() == "no_tokens"
    ui = await alice.socket(appState="active")
    assert await result() == "suppressed"
    await ui.call("app-state", {"state": "background"})
    assert await result() == "no_tokens"
    await ui.call("app-state", {"state": "active"})
    assert await result() == "suppressed"
    await ui.call("app-state", None)
    assert await result() == "no_tokens"
    await ui.call("app-state", {"state": "active"})
    await ui.close()
    async with asyncio.timeout(10):
        while await result() != "no_tokens":
            await asyncio.sleep(0.02)
