"""The feed of updates of other processes: when it reads what hints have left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from happy_light.bus import Audience, Committed, DeviceSignedOut, SharedBus
from happy_light.cluster.messages import Hint, HintedUpdate
from happy_light.cluster.updates import UpdateFeed, read_positions
from happy_light.server import Server
from happy_light.store import Database


class Outbox:
    """A database in which every account has one update more each time that its position is asked for."""

    def __init__(self) -> None:
        self.seq = 0

    async def read(self, operation: Any, *args: Any) -> Any:
        """Answer the two operations of a feed."""
        if operation is read_positions:
            self.seq += 1
            return dict.fromkeys(args[0], (self.seq - 1, 0, 0))
        account_id, first, last = args
        return [Committed(Audience(account_id), seq, b"{}") for seq in range(first, last + 1)]


async def test_a_gap_is_read_in_time_after_one_that_was_read_before() -> None:
    bus, heard = SharedBus(), asyncio.Event()
    bus.subscribe(Committed, lambda _: heard.set())
    feed = UpdateFeed(cast(Database, Outbox()), bus, lambda _: None)
    await feed.open("alice")
    try:
        for _ in range(3):
            await feed.sweep()
            async with asyncio.timeout(4):  # a read that is not answered is asked for again after 5 s
                await heard.wait()
            heard.clear()
    finally:
        feed.stop()


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_reads_that_are_due_at_once_are_planned_on_every_event_loop(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer of uvloop that is due at once is another object than one for later."""

    async def run() -> None:
        bus, heard, complete = SharedBus(), list[Committed](), asyncio.Event()
        bus.subscribe(Committed, heard.append)
        bus.subscribe(Committed, lambda update: complete.set() if update.seq == 4 else None)
        loop = asyncio.get_running_loop()
        feed = UpdateFeed(cast(Database, Outbox()), bus, lambda _: None)
        await feed.open("alice")
        try:
            with monkeypatch.context() as patch:
                patch.setattr(feed.sequencer, "wakes", loop.time)
                for seq in (3, 4):
                    feed.hinted(Hint("alice", seq, [HintedUpdate(Audience("alice").text, b"{}")]))
            async with asyncio.timeout(4):
                await complete.wait()
        finally:
            feed.stop()
        assert [update.seq for update in heard] == [1, 2, 3, 4]

    with asyncio.Runner(loop_factory=pytest.importorskip(library).new_event_loop) as runner:
        runner.run(run())


class Positions:
    """A database whose only account has signed out so many devices."""

    sign_outs = 4

    async def read(self, operation: Any, account_ids: list[str]) -> Any:
        """Return the positions of a feed's accounts."""
        return dict.fromkeys(account_ids, (0, 0, self.sign_outs))


async def test_a_sign_out_that_was_missed_is_found_though_a_later_one_was_heard_of() -> None:
    database, bus, heard = Positions(), SharedBus(), list[DeviceSignedOut]()
    feed = UpdateFeed(cast(Database, database), bus, lambda _: None)
    bus.subscribe(DeviceSignedOut, feed.device_signed_out)
    bus.subscribe(DeviceSignedOut, heard.append)
    await feed.open("alice")
    try:
        database.sign_outs = 6
        bus.deliver(DeviceSignedOut("alice", "laptop", 6))  # the fifth got lost on its way
        for _ in range(4):
            await feed.sweep()
        assert heard == [DeviceSignedOut("alice", "laptop", 6), DeviceSignedOut("alice", None, 6)]
        database.sign_outs = 8
        for number in (7, 8):
            bus.deliver(DeviceSignedOut("alice", "phone", number))
        for _ in range(4):
            await feed.sweep()
        assert len(heard) == 4, "all that there were are known"
    finally:
        feed.stop()


async def test_what_is_committed_is_acknowledged_though_its_updates_cannot_be_published(
    inside: Callable[..., Awaitable[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()

    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(server.context.bus), "publish", fail)
    async with asyncio.timeout(10):
        assert await server.database.write("nobody", lambda tx, account_id: 5) == 5
    monkeypatch.undo()
