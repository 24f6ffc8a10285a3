"""People: transitions of relationships, notifications, profiles and search."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests import databases
from tests.client import Account, World
from tests.conftest import Process

DAY = 24 * 3_600_000  # ms

# What I am to the other and the other to me; then the same two after the call, and the status answered.
# `+mine`, `+other`: who gets a post in the feed, if not told about this pair within a day.
ADD = """
none      none       requested pending    requested  +other
none      requested  friend    friend     friend     +mine +other
none      pending    requested pending    requested  +other
none      friend     requested friend     requested  +other
none      rejected   requested rejected   requested
requested none       requested none       requested
requested requested  friend    friend     friend     +mine +other
requested pending    requested pending    requested
requested friend     requested friend     requested
requested rejected   requested rejected   requested
pending   none       pending   none       pending
pending   requested  friend    friend     friend     +mine +other
pending   pending    pending   pending    pending
pending   friend     pending   friend     pending
pending   rejected   pending   rejected   pending
friend    none       friend    none       friend
friend    requested  friend    friend     friend     +mine +other
friend    pending    friend    pending    friend
friend    friend     friend    friend     friend
friend    rejected   friend    rejected   friend
rejected  none       requested pending    requested  +other
rejected  requested  friend    friend     friend     +mine +other
rejected  pending    requested pending    requested  +other
rejected  friend     requested friend     requested  +other
rejected  rejected   requested rejected   requested
"""
REMOVE = """
none      none       none      none       none
none      requested  none      requested  none
none      pending    none      pending    none
none      friend     none      friend     none
none      rejected   none      rejected   none
requested none       rejected  none       rejected
requested requested  rejected  requested  rejected
requested pending    rejected  pending    rejected
requested friend     rejected  friend     rejected
requested rejected   rejected  rejected   rejected
pending   none       none      none       none
pending   requested  none      none       none
pending   pending    none      none       none
pending   friend     none      none       none
pending   rejected   none      rejected   none
friend    none       pending   requested  requested
friend    requested  pending   requested  requested
friend    pending    pending   requested  requested
friend    friend     pending   requested  requested
friend    rejected   pending   requested  requested
rejected  none       rejected  none       rejected
rejected  requested  rejected  requested  rejected
rejected  pending    rejected  pending    rejected
rejected  friend     rejected  friend     rejected
rejected  rejected   rejected  rejected   rejected
"""
ROWS = [(action, line) for action, table in (("add", ADD), ("remove", REMOVE)) for line in table.split("\n") if line]


def execute(server: Process, sql: str, *args: Any) -> None:
    """Write into the running server's database what no request can bring about."""
    databases.query(server.folder, sql, args)


def side(server: Process, mine: Account, other: Account, status: str, notified: int | None = None) -> None:
    """Set one side of a pair; `notified` in ms since the epoch."""
    execute(
        server,
        "INSERT INTO relationships (from_id, to_id, status, last_notified_at, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, 1, 1) ON CONFLICT (from_id, to_id) DO UPDATE SET status = excluded.status, "
        "last_notified_at = excluded.last_notified_at",
        mine.id, other.id, status, notified,
    )  # fmt: skip


async def seen(mine: Account, other: Account) -> str:
    """Return the status of the other account, and check that profile and list agree on it."""
    status: str = (await mine.ok("GET", f"/v1/user/{other.id}"))["user"]["status"]
    listed = [user["status"] for user in (await mine.ok("GET", "/v1/friends"))["friends"] if user["id"] == other.id]
    assert listed == ([status] if status in ("requested", "pending", "friend") else [])
    return status


def test_the_table_covers_every_pair_for_add_and_remove() -> None:
    states = ["none", "requested", "pending", "friend", "rejected"]
    assert len(ROWS) == 50
    assert {(action, *line.split()[:2]) for action, line in ROWS} == {
        (action, mine, other) for action in ("add", "remove") for mine in states for other in states
    }


@pytest.mark.parametrize(("action", "line"), ROWS)
async def test_every_transition_of_the_table(world: World, server: Process, action: str, line: str) -> None:
    mine, other, mine_after, other_after, answered, *posts = line.split()
    alice, bob = await world.account(), await world.account()
    side(server, alice, bob, mine)
    side(server, bob, alice, other)
    ui_a, ui_b = await alice.socket(), await bob.socket()

    answer = await alice.ok("POST", f"/v1/friends/{action}", {"uid": bob.id})

    assert answer == {
        "user": {
            "id": bob.id, "firstName": "", "lastName": None, "avatar": None, "username": "", "bio": None,
            "status": answered,
        }
    }  # fmt: skip
    assert (await seen(alice, bob), await seen(bob, alice)) == (mine_after, other_after)
    kind = "friend_accepted" if mine_after == "friend" else "friend_request"
    for name, socket, about in (("+mine", ui_a, bob), ("+other", ui_b, alice)):
        bodies = [(update["t"], update["body"]) for update in await socket.updates()]
        assert bodies == ([("new-feed-post", {"kind": kind, "uid": about.id})] if name in posts else [])


async def test_a_pair_without_rows_counts_as_none(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    ui_a, ui_b = await alice.socket(), await bob.socket()
    assert (await alice.ok("POST", "/v1/friends/remove", {"uid": bob.id}))["user"]["status"] == "none"
    assert (await alice.ok("POST", "/v1/friends/add", {"uid": bob.id}))["user"]["status"] == "requested"
    (update,) = await ui_b.updates()
    items = (await bob.ok("GET", "/v1/feed"))["items"]
    assert update == {"t": "new-feed-post", **items[0]}
    assert items[0]["repeatKey"] == f"friend_request_{alice.id}"
    assert await ui_a.heard() == []


async def test_a_receiver_is_notified_about_a_person_once_a_day(world: World, server: Process) -> None:
    alice, bob, carol = [await world.account() for _ in range(3)]
    ui_b = await bob.socket()

    async def ask_again(hours: float) -> list[str]:
        execute(
            server,
            "UPDATE relationships SET last_notified_at = ? WHERE from_id = ? AND to_id = ?",
            int(time.time() * 1000 - hours * 3_600_000), bob.id, alice.id,
        )  # fmt: skip
        await alice.ok("POST", "/v1/friends/remove", {"uid": bob.id})
        await alice.ok("POST", "/v1/friends/add", {"uid": bob.id})
        return [update["cursor"] for update in await ui_b.updates()]

    await alice.ok("POST", "/v1/friends/add", {"uid": bob.id})
    assert [update["cursor"] for update in await ui_b.updates()] == ["0-1"]
    assert await ask_again(hours=23) == []
    assert await ask_again(hours=25) == ["0-2"]
    assert await ask_again(hours=0) == []
    await carol.ok("POST", "/v1/friends/add", {"uid": bob.id})  # another person is another matter
    assert [update["cursor"] for update in await ui_b.updates()] == ["0-3"]
    items = (await bob.ok("GET", "/v1/feed"))["items"]
    assert [(item["cursor"], item["body"]["uid"]) for item in items] == [("0-3", carol.id), ("0-2", alice.id)]


async def test_only_accounts_not_notified_within_a_day_are_notified_of_the_friendship(
    world: World, server: Process
) -> None:
    alice, bob = await world.account(), await world.account()
    now = int(time.time() * 1000)
    side(server, alice, bob, "requested", now - 2 * DAY)
    side(server, bob, alice, "pending", now)
    ui_a, ui_b = await alice.socket(), await bob.socket()
    await bob.ok("POST", "/v1/friends/add", {"uid": alice.id})
    assert [update["body"] for update in await ui_a.updates()] == [{"kind": "friend_accepted", "uid": bob.id}]
    assert await ui_b.heard() == []


async def test_adding_and_removing_oneself_or_an_unknown_account(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    for uid in databases.storable((alice.id, "nobody", "", "x" * 5000, "\x00")):
        assert await alice.ok("POST", "/v1/friends/add", {"uid": uid}) == {"user": None}
    assert await alice.ok("POST", "/v1/friends/remove", {"uid": "nobody"}) == {"user": None}
    assert (await alice.ok("POST", "/v1/friends/remove", {"uid": alice.id}))["user"]["status"] == "none"
    assert (await alice.ok("GET", f"/v1/user/{alice.id}"))["user"]["id"] == alice.id
    unknown = await alice.get("/v1/user/nobody")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "User not found"})
    assert await ui.heard() == []


@pytest.mark.parametrize("body", [{}, {"uid": 5}, {"uid": None}, [], "x", None])
@pytest.mark.parametrize("action", ["add", "remove"])
async def test_invalid_requests_are_400(world: World, action: str, body: Any) -> None:
    alice = await world.account()
    answer = await alice.post(f"/v1/friends/{action}", body)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "message", "statusCode"}


async def test_a_profile_combines_account_and_github_profile(world: World, server: Process) -> None:
    alice, bob = await world.account(), await world.account()
    execute(
        server,
        "INSERT INTO github_users (id, profile, created_at, updated_at) VALUES (?, ?, 1, 1)",
        bob.id, '{"login": "bob-on-github", "bio": "builds things"}',
    )  # fmt: skip
    execute(
        server,
        "UPDATE accounts SET first_name = 'Bob', last_name = 'Builder', github_user_id = ?, avatar = ? WHERE id = ?",
        bob.id, '{"path": "public/users/x/a b.png", "width": 4, "height": 3, "thumbhash": "abc"}', bob.id,
    )  # fmt: skip
    user = (await alice.ok("GET", f"/v1/user/{bob.id}"))["user"]
    assert user == {
        "id": bob.id, "firstName": "Bob", "lastName": "Builder", "username": "bob-on-github", "bio": "builds things",
        "status": "none",
        "avatar": {
            "path": "public/users/x/a b.png", "url": f"{world.url}/files/public/users/x/a%20b.png",
            "width": 4, "height": 3, "thumbhash": "abc",
        },
    }  # fmt: skip
    execute(server, "UPDATE accounts SET username = ? WHERE id = ?", "own-" + bob.id, bob.id)
    assert (await alice.ok("GET", f"/v1/user/{bob.id}"))["user"]["username"] == "own-" + bob.id


async def test_search_is_a_literal_prefix_in_any_case(world: World, server: Process) -> None:
    alice = await world.account()
    mark = alice.id[-8:]
    names = {}
    for name in ("Anna", "anNe", "ann", "an_na", "an%na", "bann", "ünna"):
        account = await world.account()
        names[account.id] = mark + name
        execute(server, "UPDATE accounts SET username = ? WHERE id = ?", mark + name, account.id)

    async def found(query: str) -> list[str]:
        users = (await alice.ok("GET", "/v1/user/search", params={"query": mark + query}))["users"]
        assert all(names[user["id"]] == user["username"] and user["status"] == "none" for user in users)
        return [user["username"][len(mark) :] for user in users]

    assert await found("ann") == ["ann", "Anna", "anNe"]
    assert await found("ANNA") == ["Anna"]
    assert await found("an_") == ["an_na"]
    assert await found("an%") == ["an%na"]
    assert await found("ü") == ["ünna"]
    assert await found("nn") == await found("_") == await found("%") == await found("*") == []
    assert len(await found("")) == 7


async def test_search_returns_ten_people_by_username(world: World, server: Process) -> None:
    alice = await world.account()
    mark = alice.id[-8:]
    for number in range(12):
        account = await world.account()
        execute(server, "UPDATE accounts SET username = ? WHERE id = ?", f"{mark}{11 - number:02}", account.id)
    users = (await alice.ok("GET", f"/v1/user/search?query={mark.upper()}"))["users"]
    assert [user["username"] for user in users] == [f"{mark}{number:02}" for number in range(10)]
    assert (await alice.get("/v1/user/search")).status_code == 400
