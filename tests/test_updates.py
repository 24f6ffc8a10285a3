"""The feed of updates of other processes: when it reads what hints have left out."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from happy_light.bus import Audience, Committed, SharedBus
from happy_light.cluster.updates import UpdateFeed, read_positions
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
