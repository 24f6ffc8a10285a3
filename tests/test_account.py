"""Account: profile and settings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests import databases
from tests.client import World, b64, uid
from tests.conftest import Start

PATH = "/v1/account/settings"


async def test_a_fresh_profile_has_every_field(world: World) -> None:
    alice = await world.account()
    profile = await alice.ok("GET", "/v1/account/profile")
    assert profile == {
        "id": alice.id, "timestamp": profile["timestamp"], "firstName": None, "lastName": None, "username": None,
        "avatar": None, "github": None, "connectedServices": [],
    }  # fmt: skip
    assert isinstance(profile["timestamp"], int)


async def test_auth_me_returns_profile_key_and_creation_time(world: World) -> None:
    alice = await world.account()
    profile = await alice.ok("GET", "/v1/account/profile")
    me = await alice.ok("GET", "/v1/auth/me")
    assert me.keys() == profile.keys() | {"publicKey", "createdAt"}
    assert (me["id"], me["publicKey"]) == (alice.id, b64(bytes(alice.key.verify_key)))
    assert 0 < me["createdAt"] <= me["timestamp"]


async def test_avatar_urls_begin_with_the_requested_address(start: Start) -> None:
    server = start()
    async with World(server.url) as world:
        alice = await world.account()
        stored = {"path": "public/users/a/avatars/x y.png", "width": 4, "height": 3, "thumbhash": "dGg="}
        databases.query(server.folder, "UPDATE accounts SET avatar = ? WHERE id = ?", (json.dumps(stored), alice.id))
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "happy.example:8443"}
        for path in ("/v1/account/profile", "/v1/auth/me"):
            for headers, base in (({}, server.url), (forwarded, "https://happy.example:8443")):
                avatar = (await alice.ok("GET", path, headers=headers))["avatar"]
                assert avatar == {**stored, "url": f"{base}/files/public/users/a/avatars/x%20y.png"}


async def test_settings_are_replaced_by_version_and_announced(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    ui, sess, machine = await alice.socket(), await alice.socket(session=uid()), await alice.socket(machine=uid())
    stranger = await bob.socket()
    await ui.heard()
    assert await alice.ok("GET", PATH) == {"settings": None, "settingsVersion": 0}

    for version, value in enumerate(["s1 ü🙂", None, ""], 1):
        answer = await alice.ok("POST", PATH, {"settings": value, "expectedVersion": version - 1})
        assert answer == {"success": True, "version": version}
        assert await ui.updates() == [
            {"t": "update-account", "id": alice.id, "settings": {"value": value, "version": version}}
        ]
        assert await alice.ok("GET", PATH) == {"settings": value, "settingsVersion": version}
        for stale in (version - 1, version + 5):
            assert await alice.ok("POST", PATH, {"settings": "x", "expectedVersion": stale}) == {
                "success": False, "error": "version-mismatch", "currentVersion": version, "currentSettings": value,
            }  # fmt: skip
    assert await ui.heard() == await sess.heard() == await machine.heard() == await stranger.heard() == []
    assert await bob.ok("GET", PATH) == {"settings": None, "settingsVersion": 0}


async def test_one_of_many_writers_wins(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    answers = await asyncio.gather(
        *(alice.ok("POST", PATH, {"settings": f"s{i}", "expectedVersion": 0}) for i in range(6))
    )
    (update,) = await ui.updates()
    assert [answer["success"] for answer in answers].count(True) == 1
    losers = [answer for answer in answers if not answer["success"]]
    assert {(loser["currentVersion"], loser["currentSettings"]) for loser in losers} == {
        (1, update["settings"]["value"])
    }


async def test_settings_of_5_mb_are_returned_unchanged(world: World) -> None:
    alice = await world.account()
    settings = "S" * 5_000_000
    await alice.ok("POST", PATH, {"settings": settings, "expectedVersion": 0})
    assert (await alice.ok("GET", PATH))["settings"] == settings


@pytest.mark.parametrize("body", [
    {}, {"settings": "s"}, {"expectedVersion": 0}, {"settings": 5, "expectedVersion": 0},
    {"settings": {}, "expectedVersion": 0}, {"settings": "s", "expectedVersion": -1},
    {"settings": "s", "expectedVersion": "0"}, {"settings": "s", "expectedVersion": 0.5},
    {"settings": "s", "expectedVersion": None}, {"settings": "s", "expectedVersion": 10**30},
])  # fmt: skip
async def test_invalid_settings_are_rejected(world: World, body: dict[str, Any]) -> None:
    alice = await world.account()
    ui = await alice.socket()
    response = await alice.post(PATH, body)
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}
    assert await alice.ok("GET", PATH) == {"settings": None, "settingsVersion": 0}
    assert await ui.heard() == []
