"""Key-value store: versions, batches, prefixes and isolation of accounts."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests import databases
from tests.client import Account, World, b64, uid


async def write(account: Account, *mutations: tuple[str, str | None, int]) -> httpx.Response:
    body = [{"key": key, "value": value, "version": version} for key, value, version in mutations]
    return await account.post("/v1/kv", {"mutations": body})


async def keys(account: Account, query: str = "") -> list[str]:
    return [item["key"] for item in (await account.ok("GET", f"/v1/kv{query}"))["items"]]


async def test_the_version_rises_over_writes_deletion_and_rewriting(world: World) -> None:
    alice = await world.account()
    ui, sess = await alice.socket(), await alice.socket(session=uid())
    missing = (404, {"error": "Key not found"})

    for value, seen, now in ((b64("v"), -1, 0), (b64(b"\x00\xff"), 0, 1), ("", 1, 2), (None, 2, 3), (b64("w"), 3, 4)):
        before = await alice.get("/v1/kv/k")
        if seen == -1 or now == 4:
            assert (before.status_code, before.json()) == missing
        response = await write(alice, ("k", value, seen))
        assert (response.status_code, response.json()) == (
            200, {"success": True, "results": [{"key": "k", "version": now}]},
        )  # fmt: skip
        assert await ui.updates() == [
            {"t": "kv-batch-update", "changes": [{"key": "k", "value": value, "version": now}]}
        ]
        after = await alice.get("/v1/kv/k")
        if value is None:
            assert (after.status_code, after.json()) == missing
            assert await keys(alice) == []
        else:
            assert after.json() == {"key": "k", "value": value, "version": now}
    assert await sess.heard() == []


async def test_a_batch_with_mismatches_changes_nothing_and_lists_them(world: World) -> None:
    alice = await world.account()
    await write(alice, ("a", b64("1"), -1), ("b", b64("1"), -1), ("gone", b64("1"), -1))
    await write(alice, ("gone", None, 0))
    ui = await alice.socket()

    response = await write(
        alice, ("new", b64("x"), -1), ("a", b64("2"), 5), ("b", b64("2"), 0), ("absent", None, 0), ("gone", b64("x"), 0)
    )

    assert response.status_code == 409
    assert response.json() == {
        "success": False,
        "errors": [
            {"key": "a", "error": "version-mismatch", "version": 0, "value": b64("1")},
            {"key": "absent", "error": "version-mismatch", "version": -1, "value": None},
            {"key": "gone", "error": "version-mismatch", "version": 1, "value": None},
        ],
    }
    assert await ui.heard() == []
    assert (await alice.ok("GET", "/v1/kv"))["items"] == [
        {"key": "a", "value": b64("1"), "version": 0}, {"key": "b", "value": b64("1"), "version": 0},
    ]  # fmt: skip


async def test_null_for_a_new_key_creates_a_deleted_key(world: World) -> None:
    alice = await world.account()
    assert (await write(alice, ("k", None, -1))).json()["results"] == [{"key": "k", "version": 0}]
    assert await keys(alice) == []
    assert (await write(alice, ("k", b64("v"), -1))).json()["errors"][0]["version"] == 0
    assert (await write(alice, ("k", b64("v"), 0))).status_code == 200


async def test_one_of_many_writers_wins_and_is_announced_once(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    for seen in (-1, 0, 1):
        values = [b64(f"{seen}-{i}") for i in range(6)]
        responses = await asyncio.gather(*(write(alice, ("k", value, seen)) for value in values))
        assert sorted(response.status_code for response in responses) == [200] + [409] * 5
        ((change,),) = [update["changes"] for update in await ui.updates()]
        assert change["version"] == seen + 1
        for response in responses:
            if response.status_code == 409:
                assert response.json()["errors"] == [{**change, "error": "version-mismatch"}]


async def test_listing_takes_a_literal_prefix_and_sorts(world: World) -> None:
    alice = await world.account()
    names = ["a%b", "a_b", "axb", "a", "b", "App", "a\x00z", "aü", "a\U0010ffff", "a\U0010ffffz", "a\ud7ff"]
    names = databases.storable(names)
    await write(alice, *((name, b64("v"), -1) for name in names))

    assert await keys(alice) == sorted(names)
    for prefix in databases.storable(
        ("a", "a%", "a_", "A", "a\x00", "a\U0010ffff", "\U0010ffff", "a\ud7ff", "zzz", "")
    ):
        expected = sorted(name for name in names if name.startswith(prefix))
        assert await keys(alice, f"?prefix={quote(prefix)}") == expected, prefix
    assert await keys(alice, "?prefix=a&limit=2") == sorted(name for name in names if name[0] == "a")[:2]
    for limit in ("0", "1001", "x", "1.5", ""):
        assert (await alice.get(f"/v1/kv?limit={limit}")).status_code == 400


async def test_bulk_returns_existing_keys_in_requested_order(world: World) -> None:
    alice = await world.account()
    await write(alice, ("a", b64("1"), -1), ("b", b64("2"), -1), ("gone", None, -1))
    answer = await alice.ok("POST", "/v1/kv/bulk", {"keys": ["none", "b", "gone", "a", "b"]})
    assert answer == {
        "values": [{"key": "b", "value": b64("2"), "version": 0}, {"key": "a", "value": b64("1"), "version": 0}]
    }


@pytest.mark.parametrize("key", ["with space", "slash/in/key", "ü🙂", "%25", "a:b.c", "", "bulk", "x" * 1024, "\x00"])
async def test_any_text_is_a_key(world: World, key: str) -> None:
    alice = await world.account()
    if not databases.storable([key]):
        assert (await write(alice, (key, b64("v"), -1))).status_code == 400
        return
    assert (await write(alice, (key, b64("v"), -1))).status_code == 200
    item = {"key": key, "value": b64("v"), "version": 0}
    assert await alice.ok("GET", "/v1/kv/" + quote(key, safe="")) == item
    assert (await alice.ok("GET", "/v1/kv"))["items"] == [item]


@pytest.mark.parametrize("mutations", [
    None, [], {}, [{}], [{"key": "k", "value": "dg=="}],
    [{"key": "k", "version": -1}], [{"value": "dg==", "version": -1}],
    [{"key": 5, "value": "dg==", "version": -1}], [{"key": "k", "value": 5, "version": -1}],
    [{"key": "k", "value": "dg==", "version": "-1"}], [{"key": "k", "value": "dg==", "version": 0.5}],
    [{"key": "k", "value": "dg==", "version": 10**30}], [{"key": "k", "value": "!!!abc", "version": -1}],
    [{"key": "k", "value": "dg==", "version": -1}, {"key": "k", "value": "dg==", "version": 0}],
    [{"key": f"k{i}", "value": "dg==", "version": -1} for i in range(101)],
])  # fmt: skip
async def test_invalid_batches_are_rejected(world: World, mutations: Any) -> None:
    alice = await world.account()
    ui = await alice.socket()
    response = await alice.post("/v1/kv", {} if mutations is None else {"mutations": mutations})
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}
    assert await keys(alice) == []
    assert await ui.heard() == []


@pytest.mark.parametrize("names", [None, [], "a", [5], [str(i) for i in range(101)]])
async def test_invalid_lists_of_keys_are_rejected(world: World, names: Any) -> None:
    alice = await world.account()
    assert (await alice.post("/v1/kv/bulk", {} if names is None else {"keys": names})).status_code == 400


async def test_accounts_do_not_share_keys(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    await write(alice, ("k", b64("hers"), -1))
    ui = await alice.socket()

    assert (await mallory.get("/v1/kv/k")).status_code == 404
    assert await keys(mallory) == []
    assert await mallory.ok("POST", "/v1/kv/bulk", {"keys": ["k"]}) == {"values": []}
    assert (await write(mallory, ("k", None, 0))).json()["errors"][0] == {
        "key": "k", "error": "version-mismatch", "version": -1, "value": None,
    }  # fmt: skip
    assert (await write(mallory, ("k", b64("his"), -1))).status_code == 200

    assert await ui.heard() == []
    assert (await alice.ok("GET", "/v1/kv/k"))["value"] == b64("hers")
