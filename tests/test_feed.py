"""Feed: pages, cursors, and posts that replace an older one."""

from __future__ import annotations

import pytest

from tests.client import World
from tests.conftest import Process
from tests.test_people import execute


async def test_pages_are_newest_first_whatever_the_cursor(world: World, server: Process) -> None:
    bob = await world.account()
    assert await bob.ok("GET", "/v1/feed") == {"items": [], "hasMore": False}
    askers = [await world.account() for _ in range(5)]
    for asker in askers:
        await asker.ok("POST", "/v1/friends/add", {"uid": bob.id})

    async def page(query: str) -> tuple[str, bool]:
        feed = await bob.ok("GET", f"/v1/feed{query}")
        return " ".join(item["cursor"].removeprefix("0-") for item in feed["items"]), feed["hasMore"]

    assert await page("") == await page("?limit=5") == ("5 4 3 2 1", False)
    assert await page("?limit=4") == ("5 4 3 2", True)
    assert await page("?before=0-4") == ("3 2 1", False)
    assert await page("?before=0-4&limit=2") == ("3 2", True)
    assert await page("?before=0-1") == await page("?after=0-5") == ("", False)
    assert await page("?after=0-2") == ("5 4 3", False)
    assert await page("?after=0-2&limit=1") == ("5", True)
    assert await page("?before=0-3&after=0-1") == ("2 1", False)
    assert await page("?before=0-999999999999999") == ("5 4 3 2 1", False)
    newest = (await bob.ok("GET", "/v1/feed?limit=1"))["items"][0]
    assert newest.keys() == {"id", "body", "repeatKey", "cursor", "createdAt"}
    assert newest["body"] == {"kind": "friend_request", "uid": askers[4].id}
    assert (await askers[0].ok("GET", "/v1/feed"))["items"] == []


@pytest.mark.parametrize(
    "cursor", ["", "0", "0-", "5", "1-5", "0-x", "0--1", "0-1.5", "0-1 ", "0-1\n2", "0-1\n", "0-" + "9" * 30]
)
@pytest.mark.parametrize("name", ["before", "after"])
async def test_a_bad_cursor_is_400(world: World, name: str, cursor: str) -> None:
    alice = await world.account()
    answer = await alice.get("/v1/feed", params={name: cursor})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "message", "statusCode"}


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5"])
async def test_a_bad_limit_is_400(world: World, limit: str) -> None:
    alice = await world.account()
    assert (await alice.get("/v1/feed", params={"limit": limit})).status_code == 400


async def test_a_post_replaces_the_older_one_with_its_repeat_key(world: World, server: Process) -> None:
    alice, bob = await world.account(), await world.account()
    await alice.ok("POST", "/v1/friends/add", {"uid": bob.id})
    (first,) = (await bob.ok("GET", "/v1/feed"))["items"]
    execute(server, "UPDATE relationships SET last_notified_at = 1 WHERE from_id = ?", bob.id)
    await alice.ok("POST", "/v1/friends/remove", {"uid": bob.id})
    ui = await bob.socket()
    await alice.ok("POST", "/v1/friends/add", {"uid": bob.id})
    (second,) = (await bob.ok("GET", "/v1/feed"))["items"]
    assert (first["cursor"], second["cursor"]) == ("0-1", "0-2")
    assert first["id"] != second["id"]
    assert first["repeatKey"] == second["repeatKey"] == f"friend_request_{alice.id}"
    assert await ui.updates() == [{"t": "new-feed-post", **second}]


async def test_a_text_post_is_returned_unchanged(world: World, server: Process) -> None:
    alice = await world.account()
    execute(
        server,
        "INSERT INTO feed_items (id, account_id, counter, body, created_at, updated_at) VALUES (?, ?, 7, ?, 5, 5)",
        alice.id, alice.id, '{"kind":"text","text":"maintenance at 8 \\u00fc"}',
    )  # fmt: skip
    assert (await alice.ok("GET", "/v1/feed"))["items"] == [
        {
            "id": alice.id, "body": {"kind": "text", "text": "maintenance at 8 ü"}, "repeatKey": None,
            "cursor": "0-7", "createdAt": 5,
        }
    ]  # fmt: skip
