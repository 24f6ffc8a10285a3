"""Connection-state recovery: a client that was cut off receives exactly what it missed, or begins anew."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from happy_light.bus import Audience
from happy_light.clients import recent_events
from happy_light.clients.packets import Packet
from happy_light.clients.recent_events import RecentEvents
from tests import commands
from tests.client import Account, Socket, World, uid
from tests.conftest import Start
from tests.raw_connections import PacketWebsocket


class Connected:
    """A websocket after its CONNECT, and what it has received since."""

    def __init__(self, wire: PacketWebsocket, answer: dict[str, Any]) -> None:
        self.wire = wire
        self.sid: str = answer["sid"]
        self.pid: str | None = answer.get("pid")
        self.events: list[list[Any]] = []

    @classmethod
    async def open(cls, account: Account, **auth: Any) -> Connected:
        await asyncio.sleep(Socket.lag)
        wire = await PacketWebsocket.open(account.world.url)
        answer = await wire.connect({"token": account.token, "clientType": "user-scoped", **auth})
        assert answer.startswith("40"), answer
        return cls(wire, json.loads(answer[2:]))

    async def receive(self) -> list[list[Any]]:
        """Return everything received so far; a ping behind it proves that nothing more was sent."""
        await asyncio.sleep(Socket.lag)
        await self.wire.send('4299["ping"]')
        while (packet := await self.wire.packet()) != "4399[{}]":
            assert packet.startswith("42["), packet
            self.events.append(json.loads(packet[2:]))
        return self.events

    @property
    def offset(self) -> str:
        """The offset that a client keeps: the last string argument of an event."""
        return str(self.events[-1][2])

    @property
    def local_ids(self) -> list[str]:
        """The localIds of the messages among the events."""
        return [
            event[1]["body"]["message"]["localId"] for event in self.events if event[1]["body"]["t"] == "new-message"
        ]

    async def cut(self) -> tuple[str, str]:
        """Lose the connection without a word; return its pid and offset."""
        await self.receive()
        pid, offset = self.pid, self.offset
        await self.wire.__aexit__(None, None, None)
        assert pid is not None
        return pid, offset


async def received_one(account: Account, **auth: Any) -> tuple[Connected, str]:
    """Return a connection that has received one message, and the session of that message."""
    session = (await account.session())["id"]
    connected = await Connected.open(account, **auth)
    await account.send(session, "before")
    return connected, session


async def test_a_client_continues_after_exactly_what_it_received(world: World) -> None:
    alice = await world.account()
    first, session = await received_one(alice)
    pid, offset = await first.cut()
    await alice.send(session, "missed 1", "missed 2")
    second = await Connected.open(alice, pid=pid, offset=offset)
    assert (second.pid, second.sid) == (pid, first.sid)
    await alice.send(session, "live")
    await second.receive()
    assert second.local_ids == ["missed 1", "missed 2", "live"]
    seqs = [event[1]["seq"] for event in first.events + second.events]
    assert seqs == list(range(seqs[0], seqs[0] + 4))
    # And again: what was replayed carries offsets like everything else.
    pid, offset = await second.cut()
    third = await Connected.open(alice, pid=pid, offset=offset)
    assert (third.pid, await third.receive()) == (pid, [])


@pytest.mark.parametrize(
    "change",
    [
        {"offset": None},
        {"offset": 5},
        {"pid": "unknown"},
        {"offset": "unknown"},
        {"offset": "unknown.1"},
        {"clientType": "machine-scoped", "machineId": "m"},
        {"clientType": "session-scoped", "sessionId": "s"},
    ],
)
async def test_whatever_does_not_fit_begins_anew(world: World, change: dict[str, Any]) -> None:
    alice = await world.account()
    first, session = await received_one(alice)
    pid, offset = await first.cut()
    await alice.send(session, "missed")
    second = await Connected.open(alice, **{"pid": pid, "offset": offset, **change})
    assert second.pid not in (None, pid) and second.sid != first.sid
    assert [event for event in await second.receive() if event[0] == "update"] == []


@pytest.mark.one_process
async def test_offsets_that_were_never_given_out_are_unknown(world: World) -> None:
    alice = await world.account()
    first, _ = await received_one(alice)
    pid, offset = await first.cut()
    prefix, _, number = offset.partition(".")
    for wrong in (f"{prefix}.{int(number) + 1}", f"{prefix}.-1", f"{prefix}.²", f"{prefix}.{'9' * 5000}", f"{prefix}."):
        again = await Connected.open(alice, pid=pid, offset=wrong)
        assert again.pid != pid, wrong
        await again.wire.__aexit__(None, None, None)
        first, _ = await received_one(alice)
        pid, _ = await first.cut()


async def test_another_account_gets_nothing_with_the_pid(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    first, session = await received_one(alice)
    pid, offset = await first.cut()
    await alice.send(session, "secret")
    stranger = await Connected.open(bob, pid=pid, offset=offset)
    assert (stranger.pid != pid, await stranger.receive()) == (True, [])
    # It has not harmed the owner's recovery either.
    second = await Connected.open(alice, pid=pid, offset=offset)
    await second.receive()
    assert (second.pid, second.local_ids) == (pid, ["secret"])


async def test_a_bad_token_is_refused_as_ever(world: World) -> None:
    alice = await world.account()
    first, _ = await received_one(alice)
    pid, offset = await first.cut()
    wire = await PacketWebsocket.open(world.url)
    answer = await wire.connect({"token": "bad", "clientType": "user-scoped", "pid": pid, "offset": offset})
    assert answer == '44{"message":"Invalid authentication token"}'
    await wire.__aexit__(None, None, None)


async def test_a_client_that_said_goodbye_begins_anew(world: World) -> None:
    alice = await world.account()
    first, _ = await received_one(alice)
    await first.receive()
    await first.wire.send("41")
    second = await Connected.open(alice, pid=first.pid, offset=first.offset)
    assert second.pid != first.pid


async def test_a_connection_that_looks_alive_is_closed_and_continued(world: World) -> None:
    alice = await world.account()
    first, session = await received_one(alice)
    await first.receive()
    second = await Connected.open(alice, pid=first.pid, offset=first.offset)
    assert (second.pid, second.sid) == (first.pid, first.sid)
    assert await first.wire.ended()
    await alice.send(session, "live")
    await second.receive()
    assert second.local_ids == ["live"]


async def test_ephemeral_events_are_replayed_with_their_last_word(world: World) -> None:
    alice = await world.account()
    first, session = await received_one(alice)
    pid, offset = await first.cut()
    cli = await alice.socket(session=session)
    now = (await alice.session())["createdAt"]
    for thinking in (True, False, True):
        assert await cli.call("session-alive", {"sid": session, "time": now, "thinking": thinking}) == {"ok": True}
    second = await Connected.open(alice, pid=pid, offset=offset)
    activities = [event[1] for event in await second.receive() if event[0] == "ephemeral"]
    assert [(event["id"], event["active"], event["thinking"]) for event in activities] == [(session, True, True)]


async def test_a_client_does_not_receive_its_own_message_by_recovery(world: World) -> None:
    alice = await world.account()
    first, session = await received_one(alice)
    await first.receive()
    offset = first.offset
    await first.wire.send(f'421["message",{json.dumps({"sid": session, "message": "m", "localId": "own"})}]')
    assert (await first.wire.packet()).startswith("431[")
    pid, _ = await first.cut()
    second = await Connected.open(alice, pid=pid, offset=offset)
    assert (second.pid, await second.receive()) == (pid, [])


async def test_sign_out_ends_what_could_be_continued(start: Start) -> None:
    process = start()
    async with World(process.url) as world:
        alice = await world.account()
        first, _ = await received_one(alice)
        pid, offset = await first.cut()
        await commands.ok(process.folder, "accounts", "sign-out", alice.id)
        again = await world.account(alice.key)
        second = await Connected.open(again, pid=pid, offset=offset)
        assert second.pid != pid


async def test_after_the_window_a_client_begins_anew(start: Start) -> None:
    process = start("--recovery-window", "0.2")
    async with World(process.url) as world:
        alice = await world.account()
        first, _ = await received_one(alice)
        pid, offset = await first.cut()
        await asyncio.sleep(0.5)  # the window itself
        assert (await Connected.open(alice, pid=pid, offset=offset)).pid != pid


async def test_switched_off_nothing_is_on_the_wire(start: Start) -> None:
    process = start("--recovery-window", "0")
    async with World(process.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        first = await Connected.open(alice)
        await alice.send(session, "m")
        (event,) = await first.receive()
        assert (first.pid, len(event)) == (None, 2)


async def test_an_offset_of_the_process_before_is_unknown(start: Start) -> None:
    process = start()
    async with World(process.url) as world:
        alice = await world.account()
        first, _ = await received_one(alice)
        _, offset = await first.cut()
    process.stop()
    process = start(folder=process.folder)
    async with World(process.url) as world:
        alice = await world.account(alice.key)
        second = await Connected.open(alice)
        third = await Connected.open(alice, pid=second.pid, offset=offset)
        assert third.pid != second.pid


async def test_a_machine_continues_with_its_subscriptions(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    machine = {"clientType": "machine-scoped", "machineId": uid()}
    first = await Connected.open(alice, **machine)
    await first.wire.send(f'421["session-subscribe",{json.dumps({"sids": [session]})}]')
    assert json.loads((await first.wire.packet())[3:])[0]["subscribed"] == [session]
    await alice.send(session, "before")
    pid, offset = await first.cut()
    await alice.send(session, "missed")
    second = await Connected.open(alice, **machine, pid=pid, offset=offset)
    await alice.send(session, "live")
    await second.receive()
    assert (second.pid, second.local_ids) == (pid, ["missed", "live"])


# --------------------------------------------------------------------------------- what is kept
def add(events: RecentEvents, account_id: str, text: str, replaces: str | None = None) -> str:
    """Add an event; return its offset."""
    packet = events.add(Audience(account_id), lambda offset: Packet(text.encode() + offset), None, replaces)
    return packet.data.decode().rpartition(",")[2].strip('"')


def texts(events: RecentEvents, account_id: str, offset: str) -> list[str] | None:
    missed = events.since(account_id, offset)
    return None if missed is None else [event.packet.data.decode().partition(",")[0] for event in missed]


def test_all_is_replayed_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_events, "ACCOUNT_EVENTS_MAX", 3)
    events = RecentEvents()
    events.hold("a")
    offsets = [add(events, "a", str(number)) for number in range(6)]
    assert [texts(events, "a", offset) for offset in offsets] == [
        None, None, ["3", "4", "5"], ["4", "5"], ["5"], [],
    ]  # fmt: skip


def test_an_event_that_was_replaced_is_not_missing() -> None:
    events = RecentEvents()
    events.hold("a")
    first = add(events, "a", "update")
    for number in range(5):
        add(events, "a", f"activity {number}", replaces="s")
    add(events, "a", "later")
    assert texts(events, "a", first) == ["activity 4", "later"]


def test_what_is_kept_is_bounded_for_one_account_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_events, "ACCOUNT_BYTES_MAX", 10_000)
    monkeypatch.setattr(recent_events, "TOTAL_BYTES_MAX", 25_000)
    events = RecentEvents()
    for account_id in "abcdefgh":
        events.hold(account_id)
        for _ in range(20):
            add(events, account_id, "x" * 1_000)
        assert events.size <= 25_000
    for account_id in "abcdefgh":
        events.release(account_id)
    assert events.size == 0


def test_an_account_is_forgotten_with_its_last_holder() -> None:
    events = RecentEvents()
    events.hold("a")
    events.hold("a")
    offset = add(events, "a", "1")
    events.release("a")
    assert texts(events, "a", offset) == []
    events.release("a")
    assert (texts(events, "a", offset), events.is_held("a")) == (None, False)
