"""What is pruned by itself when the clock is wrong: nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from happy_light import clock
from happy_light.admin import prune
from happy_light.server import Server
from tests.client import World


async def test_a_clock_far_ahead_prunes_nothing_until_somebody_says_that_it_is_right(
    inside: Callable[..., Awaitable[Server]],
) -> None:
    server = await inside()
    database = server.database
    now = clock.now_ms()
    later = now + 40 * 86_400_000

    async def jumped(at: int) -> Any:
        return await database.write_for((), prune.clock_jumped_from, at)

    assert await jumped(later) is None, "an empty database says nothing"
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        assert await jumped(now + 86_400_000) is None
        newest = await jumped(later)
        assert newest is not None and now <= newest < later
        # What clients do with that clock does not make it right.
        await database.write_for(
            (alice.id,), lambda tx: tx.execute("UPDATE sessions SET active_at = ? WHERE id = ?", (later, session))
        )
        assert await jumped(later) == newest
        await database.write_for((), prune.trust_clock)
        assert await jumped(later) is None
