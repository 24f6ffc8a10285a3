"""Session subscriptions: which machine's socket receives the events of which sessions, and for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from happy_light.domains import subscriptions
from happy_light.server import Server
from tests.client import Account, Socket, World, uid
from tests.conftest import Start
from tests.raw_connections import PacketWebsocket

Inside = Callable[[], Awaitable[Server]]


def success(*subscribed: str, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"result": "success", "subscribed": list(subscribed), "missing": list(missing)}


async def subscribed(alice: Account, *sessions: str) -> Socket:
    """Return a machine's socket that is subscribed to these sessions."""
    machine = await alice.socket(machine=uid())
    assert await machine.call("session-subscribe", {"sids": list(sessions)}) == success(*sessions)
    return machine


async def test_a_machine_receives_what_a_session_receives(world: World) -> None:
    alice = await world.account()
    one, two = (await alice.session())["id"], (await alice.session())["id"]
    machine = await subscribed(alice, one)
    ui = await alice.socket()
    await alice.send(one, "1")
    await alice.send(two, "2")
    await ui.call("update-metadata", {"sid": one, "metadata": "new", "expectedVersion": 0})
    assert [(body["t"], body.get("sid") or body["id"]) for body in await machine.updates()] == [
        ("new-message", one), ("update-session", one),
    ]  # fmt: skip


async def test_its_own_messages_come_back_by_http_only(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    machine = await subscribed(alice, session)
    ui = await alice.socket()
    await machine.call("message", {"sid": session, "message": "m", "localId": "socket"})
    await alice.send(session, "http")
    assert [body["message"]["localId"] for body in await machine.updates()] == ["http"]
    assert [body["message"]["localId"] for body in await ui.updates()] == ["socket", "http"]


async def test_ids_are_answered_in_their_order_once_and_foreign_ones_are_missing(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    one, two = (await alice.session())["id"], (await alice.session())["id"]
    foreign = (await bob.session())["id"]
    machine = await alice.socket(machine=uid())
    asked = {"sids": [two, foreign, one, two, "unknown", foreign]}
    assert await machine.call("session-subscribe", asked) == success(two, one, missing=(foreign, "unknown"))
    await bob.send(foreign, "secret")
    assert await machine.heard() == []


async def test_only_machines_may_subscribe(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    for socket in (await alice.socket(), await alice.socket(session=session)):
        for event in ("session-subscribe", "session-unsubscribe"):
            for data in ({"sids": [session]}, None, {"sids": 5}):
                assert await socket.call(event, data) == {"result": "error", "reason": "unsupported-client"}


@pytest.mark.parametrize(
    "data", [None, {}, [], {"sids": None}, {"sids": []}, {"sids": [5]}, {"sids": ["x"] * 501}, {"sids": ["x" * 257]}]
)
async def test_what_does_not_fit_is_invalid(world: World, data: Any) -> None:
    alice = await world.account()
    machine = await alice.socket(machine=uid())
    for event in ("session-subscribe", "session-unsubscribe"):
        assert await machine.call(event, data) == {"result": "error", "reason": "invalid"}


async def test_an_unsubscribe_sent_right_behind_a_subscribe_wins(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    async with await PacketWebsocket.open(world.url) as wire:
        await wire.connect({"token": alice.token, "clientType": "machine-scoped", "machineId": uid()})
        data = json.dumps({"sids": [session]})
        for _ in range(10):
            await wire.send(f'421["session-subscribe",{data}]')
            await wire.send(f'422["session-unsubscribe",{data}]')
        acks = [await wire.packet() for _ in range(20)]
        assert {ack[:3] for ack in acks} == {"431", "432"}
        await alice.send(session, "unheard")
        await wire.send('423["session-subscribe",' + data + "]")  # and the other way round
        assert (await wire.packet()).startswith("433[")
        await alice.send(session, "heard")
        assert '"localId":"heard"' in await wire.packet()


async def test_a_new_connection_has_no_subscriptions(world: World) -> None:
    alice = await world.account()
    session, machine_id = (await alice.session())["id"], uid()
    machine = await alice.socket(machine=machine_id)
    await machine.call("session-subscribe", {"sids": [session]})
    await machine.close()
    machine = await alice.socket(machine=machine_id)
    await alice.send(session, "unheard")
    assert await machine.heard() == []


async def test_subscriptions_of_one_socket_are_bounded(world: World, inside: Inside, monkeypatch: Any) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_MAX", 2)
    server = await inside()
    async with World(server.url) as own:
        alice = await own.account()
        ids = [(await alice.session())["id"] for _ in range(3)]
        machine = await alice.socket(machine=uid())
        assert await machine.call("session-subscribe", {"sids": ids}) == {"result": "error", "reason": "invalid"}
        assert await machine.call("session-subscribe", {"sids": ids[:2]}) == success(*ids[:2])
        assert await machine.call("session-unsubscribe", {"sids": ids[:1]}) == {"result": "success"}
        assert await machine.call("session-subscribe", {"sids": ids[2:]}) == success(ids[2])


async def activity(socket: Socket) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = await socket.wait("ephemeral")
        if event["type"] == "activity":
            return event


async def test_a_subscribed_machine_is_a_socket_of_the_session(start: Start) -> None:
    """The session's own socket may go as long as the machine stays; when it goes too, the session becomes inactive."""
    process = start("--session-grace", "0.3")
    async with World(process.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        cli = await alice.socket(session=session)
        machine = await subscribed(alice, session)
        await cli.close()
        await asyncio.sleep(0.6)  # the grace itself: nothing must happen
        assert [event for _, event in await ui.heard("ephemeral") if event["type"] == "activity"] == []
        await machine.close()
        event = await activity(ui)
        assert (event["id"], event["active"]) == (session, False)


async def test_a_subscription_within_the_grace_keeps_the_session_active(start: Start) -> None:
    process = start("--session-grace", "0.5")
    async with World(process.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        cli = await alice.socket(session=session)
        await cli.close()
        await subscribed(alice, session)
        await asyncio.sleep(0.8)  # the grace itself: nothing must happen
        assert [event for _, event in await ui.heard("ephemeral") if event["type"] == "activity"] == []
