"""Packets that are held until the end of a step: each is sent once, in order, and soon."""

from __future__ import annotations

import asyncio

from happy_light.live.cork import Cork
from tests.client import World


async def test_what_is_held_is_released_after_the_step_and_once() -> None:
    cork, flushed = Cork(), []
    cork.hold()
    cork.hold()
    assert cork.holds
    cork.add(lambda: flushed.append("a"))
    cork.add(lambda: flushed.append("b"))
    assert flushed == []
    await asyncio.sleep(0)
    assert (flushed, cork.holds) == (["a", "b"], False)
    await asyncio.sleep(0)
    assert flushed == ["a", "b"]


async def test_what_is_sent_by_a_flush_may_be_held_again() -> None:
    cork, flushed = Cork(), []

    def again() -> None:
        flushed.append(cork.holds)
        cork.hold()
        cork.add(lambda: flushed.append(cork.holds))

    cork.hold()
    cork.add(again)
    await asyncio.sleep(0)
    assert flushed == [False]
    await asyncio.sleep(0)
    assert flushed == [False, False]


async def test_updates_and_acks_keep_their_order(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    device = await alice.socket()
    cli = await alice.socket(session=session)
    acks = await asyncio.gather(*(cli.call("message", {"sid": session, "message": str(i)}) for i in range(40)))
    assert [ack["seq"] for ack in acks] == list(range(1, 41))
    frames = [frame for _, frame in await device.heard("update")]
    assert [frame["body"]["message"]["content"]["c"] for frame in frames] == [str(i) for i in range(40)]
    assert [frame["seq"] for frame in frames] == list(range(frames[0]["seq"], frames[0]["seq"] + 40))
