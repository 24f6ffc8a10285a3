"""Conditional requests: a list that has not changed is answered 304, one that has changed never is."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from typing import Any

import pytest

from happy_light.http.recent_answers import ANSWER_COST, ANSWER_MAX, BYTES_MAX, RecentAnswers
from happy_light.store import account_versions
from happy_light.store.account_versions import AccountVersions
from tests.client import Account, World, b64, uid

LISTS = (
    "/v1/sessions",
    "/v2/sessions",
    "/v2/sessions?limit=1",
    "/v1/machines",
    "/v1/artifacts",
    "/v1/feed",
    "/v1/account/profile",
    "/v1/account/settings",
)


pytestmark = pytest.mark.sqlite_only


async def tag_of(account: Account, path: str) -> str:
    response = await account.get(path)
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["vary"] == "Authorization"
    tag = response.headers["etag"]
    assert tag.startswith('W/"')
    return tag


async def status(account: Account, path: str, tag: str) -> int:
    response = await account.get(path, headers={"If-None-Match": tag})
    if response.status_code == 304:
        assert response.content == b"" and response.headers["etag"].startswith('W/"')
        assert response.headers["cache-control"] == "private, no-cache"
    return response.status_code


@pytest.mark.parametrize("path", LISTS)
async def test_what_has_not_changed_is_not_sent_again(world: World, path: str) -> None:
    alice, bob = await world.account(), await world.account()
    await alice.session()
    tag = await tag_of(alice, path)
    await bob.session()
    assert await status(alice, path, tag) == 304
    assert await status(alice, path, tag.removeprefix("W/")) == 304
    assert await status(alice, path, f'"other", {tag}') == 304
    assert await status(alice, path, '"other"') == 200
    assert await status(bob, path, tag) == 200, "a tag is of one account"
    await alice.session()
    assert await status(alice, path, tag) == 200


async def test_a_tag_is_of_one_address(world: World) -> None:
    alice = await world.account()
    assert len({await tag_of(alice, path) for path in LISTS}) == len(LISTS)


async def test_a_token_is_needed_as_ever(world: World) -> None:
    alice = await world.account()
    tag = await tag_of(alice, "/v1/sessions")
    response = await world.http.get("/v1/sessions", headers={"If-None-Match": tag})
    assert response.status_code == 401


async def test_presence_changes_the_tag_of_the_lists(world: World) -> None:
    """Heartbeats and ends change lists without an update."""
    alice = await world.account()
    session = await alice.session()
    cli = await alice.socket(session=session["id"])
    tag = await tag_of(alice, "/v1/sessions")
    assert await cli.call("session-end", {"sid": session["id"], "time": session["createdAt"]}) == {"ok": True}
    assert await status(alice, "/v1/sessions", tag) == 200


async def change(alice: Account, ids: dict[str, str], step: int, rng: random.Random) -> None:
    """Change something of the account, or nothing."""
    session, machine = ids["session"], ids["machine"]
    match rng.randrange(9):
        case 0:
            await alice.session()
        case 1:
            await alice.send(session, str(step))
        case 2:
            await alice.post(f"/v1/sessions/{session}/archive")
        case 3:
            await alice.post("/v1/account/settings", {"settings": str(step), "expectedVersion": step})
        case 4:
            await alice.post(f"/v1/machines/{machine}/state", {"daemonState": str(step), "expectedVersion": 0})
        case 5:
            key = b64(b"k")
            await alice.post("/v1/artifacts", {"id": uid(), "header": key, "body": key, "dataEncryptionKey": key})
        case 6:
            await alice.post("/v1/connect/openai/register", {"token": str(step)})
        case 7:
            await alice.delete(f"/v1/sessions/{session}")
            ids["session"] = (await alice.session())["id"]


@pytest.mark.slow
async def test_a_list_that_has_changed_is_never_answered_304(world: World) -> None:
    """Whatever is done to an account: 304 comes only where the answer would have been the same."""
    rng = random.Random(7)
    alice = await world.account()
    ids = {"session": (await alice.session())["id"], "machine": (await alice.machine())["id"]}
    seen: dict[str, tuple[str, Any]] = {}
    hits = 0
    for step in range(30):
        await change(alice, ids, step, rng)
        for path in LISTS:
            plain = await alice.get(path)
            body = plain.json()
            body.pop("timestamp", None) if isinstance(body, dict) else None
            fresh = (await alice.get(f"{path}{'&' if '?' in path else '?'}unread={step}")).json()
            fresh.pop("timestamp", None) if isinstance(fresh, dict) else None
            assert body == fresh, "an answer that was kept is the one that a read would give"
            if path in seen:
                tag, former = seen[path]
                if await status(alice, path, tag) == 304:
                    assert body == former, (step, path)
                    hits += 1
            seen[path] = plain.headers["etag"], body
    assert hits > 10


async def test_readers_beside_writers_never_see_an_old_list_as_current(world: World) -> None:
    """After a write is acknowledged, no tag that was given out before answers 304."""
    alice = await world.account()
    session = (await alice.session())["id"]

    async def write(worker: int) -> None:
        for number in range(20):
            tag = await tag_of(alice, "/v1/sessions")
            await alice.send(session, f"{worker}-{number}")
            assert await status(alice, "/v1/sessions", tag) == 200

    await asyncio.gather(*(write(worker) for worker in range(4)))


async def test_an_answer_that_tells_the_time_is_made_anew(world: World) -> None:
    alice = await world.account()
    first = (await alice.get("/v1/account/profile")).json()["timestamp"]
    while (await alice.get("/v1/account/profile")).json()["timestamp"] == first:
        pass


# ------------------------------------------------------------------------------- the kept answers
def test_an_answer_is_found_at_its_version_only() -> None:
    answers = RecentAnswers()
    answers.keep(("alice", b"/v1/sessions?"), "v1", b"[]")
    assert answers.find(("alice", b"/v1/sessions?"), "v1") == b"[]"
    assert answers.find(("alice", b"/v1/sessions?"), "v2") is None
    assert answers.find(("bob", b"/v1/sessions?"), "v1") is None
    answers.keep(("alice", b"/v1/sessions?"), "v2", b"[1]")
    assert answers.find(("alice", b"/v1/sessions?"), "v1") is None
    assert answers.size == ANSWER_COST + len(b"/v1/sessions?[1]")


def test_the_kept_answers_have_a_bound_and_those_in_use_stay() -> None:
    answers = RecentAnswers()
    answers.keep(("alice", b"used"), "v", b"x")
    for number in range(10):
        answers.keep(("bob", b"%d" % number), "v", bytes(ANSWER_MAX - 1))
        assert answers.find(("alice", b"used"), "v") == b"x"
        assert answers.size <= BYTES_MAX
    assert answers.find(("bob", b"0"), "v") is None and answers.find(("bob", b"9"), "v") is not None
    answers.keep(("bob", b"9"), "w", bytes(ANSWER_MAX + 1))
    assert answers.find(("bob", b"9"), "w") is None, "too large to be kept"


def test_many_small_answers_take_no_more_memory_than_a_few_large_ones() -> None:
    answers, version = RecentAnswers(), AccountVersions().of("alice")
    tracemalloc.start()
    try:
        for number in range(20_000):
            answers.keep(
                (f"{number:025}", b"/v1/feed?before=%d" % number), version[:-1] + str(number), b"[%d]" % number
            )
        assert tracemalloc.get_traced_memory()[0] <= BYTES_MAX
    finally:
        tracemalloc.stop()


# ----------------------------------------------------------------------------------- the versions
def test_what_names_no_account_changes_all() -> None:
    versions = AccountVersions()
    versions.changed(["a"])
    before = {account_id: versions.of(account_id) for account_id in "ab"}
    versions.changed([])
    assert all(versions.of(account_id) != before[account_id] for account_id in "ab")


def test_an_account_that_was_dropped_has_no_version_that_it_had_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_versions, "ACCOUNTS_MAX", 3)
    versions = AccountVersions()
    accounts = "abcdefgh"
    before: dict[str, set[str]] = {each: set() for each in accounts}  # given out before the last change
    since: dict[str, set[str]] = {each: set() for each in accounts}
    rng = random.Random(3)
    for _ in range(2_000):
        account_id = rng.choice(accounts)
        versions.changed([account_id])
        before[account_id] |= since[account_id]
        since[account_id] = set()
        for each in accounts:
            assert versions.of(each) not in before[each]
            since[each].add(versions.of(each))
