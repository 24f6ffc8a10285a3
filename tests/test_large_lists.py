"""Lists that are too large to be in memory at once are sent in pieces, as the client reads them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from happy_light.admin import account_admin
from happy_light.domains.presence.operations import Key, store_heartbeats
from happy_light.http import large_lists
from happy_light.server import Server
from happy_light.store import ReadTransaction
from tests.client import Account, World
from tests.raw_connections import Connection

Inside = Callable[..., Awaitable[Server]]
SIZE = 500_000  # characters of each text
COUNT = 20
HELD_MAX = 6_000_000  # bytes that an answer of 10 MB may take


@pytest.fixture
def traced() -> Iterator[None]:
    """Count Python's allocations, without garbage that is collected at some time."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def with_messages(world: World) -> tuple[Account, str]:
    alice = await world.account()
    session = (await alice.session())["id"]
    for number in range(1, COUNT + 1):
        await alice.send(
            session, str(number), content=f"{number} " + "ä" * SIZE if number == 3 else f"{number} " * 100_000
        )
    return alice, session


@pytest.mark.parametrize(
    ("query", "seqs", "has_more"),
    [
        ("?after_seq=5&limit=10", range(6, 16), True), ("", range(1, COUNT + 1), False),
        ("?before_seq=15&limit=12", range(14, 2, -1), True), ("?before_seq=15", range(14, 0, -1), False),
    ],
)  # fmt: skip
async def test_pages_of_large_messages(world: World, query: str, seqs: range, has_more: bool) -> None:
    alice, session = await with_messages(world)
    page = await alice.ok("GET", f"/v3/sessions/{session}/messages{query}")
    assert page.keys() == {"messages", "hasMore"} and page["hasMore"] is has_more
    check_messages(page["messages"], seqs)


def check_messages(found: list[Any], seqs: range) -> None:
    assert [message["seq"] for message in found] == list(seqs)
    assert [message["localId"] for message in found] == [str(seq) for seq in seqs]
    for message in found:
        assert message["content"]["c"].startswith(f"{message['seq']} ") and len(message["content"]["c"]) >= 200_000


async def test_the_newest_large_messages(world: World) -> None:
    alice, session = await with_messages(world)
    newest = await alice.ok("GET", f"/v1/sessions/{session}/messages")
    assert newest.keys() == {"messages"}
    check_messages(newest["messages"], range(COUNT, 0, -1))
    head = await alice.request("HEAD", f"/v1/sessions/{session}/messages")
    assert (head.status_code, head.content) == (200, b"")
    stranger = await world.account()
    assert (await stranger.get(f"/v1/sessions/{session}/messages")).status_code == 404


async def test_lists_of_large_sessions_are_what_they_are_of_small_ones(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        await bob.session("x", "b" * 400_000)
        made = [(await alice.session(str(number), f"{number} " + "m" * 300_000))["id"] for number in range(8)]
        keys = [(Key("session", alice.id, id), 2_000_000_000_000 + at) for at, id in enumerate(made)]
        await server.database.write(alice.id, lambda tx, _: store_heartbeats(tx, keys))
        expected = [(await alice.ok("GET", f"/v1/sessions/{id}"))["session"] for id in reversed(made)]
        response = await alice.get("/v1/sessions")
        listed = response.json()
        assert listed.keys() == {"sessions"}
        assert listed["sessions"] == [{**session, "lastMessage": None} for session in expected]
        known = await alice.get("/v1/sessions", headers={"If-None-Match": response.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        assert await alice.ok("GET", "/v2/sessions/active") == {"sessions": expected}
        page = await alice.ok("GET", "/v2/sessions?limit=5")
        assert page == {"sessions": expected[:5], "nextCursor": f"cursor_v1_{made[3]}", "hasNext": True}
        page = await alice.ok("GET", f"/v2/sessions?limit=5&cursor={page['nextCursor']}")
        assert page == {"sessions": expected[5:], "nextCursor": None, "hasNext": False}
        assert (await alice.ok("GET", "/v2/sessions?changedSince=1"))["sessions"] == expected


def head_of(alice: Account, session: str) -> bytes:
    return (
        f"GET /v1/sessions/{session}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


@pytest.mark.slow
async def test_a_large_list_is_never_in_memory_as_a_whole(traced: None, inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        for number in range(COUNT):
            await alice.send(session, str(number), content="x" * SIZE)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        async with await Connection.open(server.url) as raw:
            await raw.send(head_of(alice, session))
            size = 0
            while data := await raw.reader.read(65_536):
                size += len(data)
        assert size > COUNT * SIZE
        assert tracemalloc.get_traced_memory()[1] < before + HELD_MAX


async def test_a_sign_out_ends_a_list_that_is_being_sent(inside: Inside) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        for number in range(COUNT):
            await alice.send(session, str(number), content="x" * SIZE)
        async with await Connection.open(server.url) as raw:
            await raw.send(head_of(alice, session))
            data = await raw.reader.read(1)
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await server.database.write(alice.id, account_admin.sign_out)
            raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
            data += await raw.reader.read()
        assert data.startswith(b"HTTP/1.1 200") and not data.endswith(b"0\r\n\r\n")
        assert len(data) < COUNT * SIZE


async def test_nothing_more_is_read_for_a_client_that_has_left(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        for number in range(COUNT):
            await alice.send(session, str(number), content="x" * 2 * SIZE)
        whole, reads, ended = large_lists._read_piece, [0], asyncio.Event()
        answer = large_lists._ListResponse.__call__

        def read(*arguments: Any) -> Any:
            reads[0] += 1
            return whole(*arguments)

        async def call(*arguments: Any) -> None:
            try:
                await answer(*arguments)
            finally:
                ended.set()

        monkeypatch.setattr(large_lists, "_read_piece", read)
        monkeypatch.setattr(large_lists._ListResponse, "__call__", call)
        raw = await Connection.open(server.url)
        await raw.send(head_of(alice, session))
        await raw.reader.read(1)
        raw.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 20)
        assert 0 < reads[0] < COUNT


async def test_large_rows_that_are_deleted_before_they_are_listed(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that looks at the sizes finds a large row, and the one that lists the rows finds none."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        other = await world.account()
        monkeypatch.setattr(ReadTransaction, "fetch_small_json", lambda *_: (None, 0, None))
        messages = await alice.ok("GET", f"/v3/sessions/{session}/messages")
        assert messages == {"messages": [], "hasMore": False}
        assert await alice.ok("GET", f"/v1/sessions/{session}/messages") == {"messages": []}
        assert await other.ok("GET", "/v1/sessions") == {"sessions": []}
        assert await other.ok("GET", "/v2/sessions") == {"sessions": [], "nextCursor": None, "hasNext": False}
        assert await other.ok("GET", "/v2/sessions/active") == {"sessions": []}
