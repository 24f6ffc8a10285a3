"""Vendor tokens: returned unchanged, encrypted on disk, private to one account."""

from __future__ import annotations

import pytest

from happy_light.auth.sealing import Vault
from tests import databases
from tests.client import World
from tests.conftest import SECRET, Process

TOKEN = '{"oauth":{"access":"sk-ant-ü-secret","expires":1}}'


async def test_a_token_is_returned_until_it_is_deleted(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    ui = await alice.socket()
    assert await alice.ok("GET", "/v1/connect/tokens") == {"tokens": []}
    assert await alice.ok("GET", "/v1/connect/openai/token") == {"token": None}
    for vendor in ("openai", "anthropic", "gemini"):
        answer = await alice.ok("POST", f"/v1/connect/{vendor}/register", {"token": f"{vendor} {TOKEN}"})
        assert answer == {"success": True}
    await alice.ok("POST", "/v1/connect/gemini/register", {"token": TOKEN})
    await bob.ok("POST", "/v1/connect/gemini/register", {"token": ""})

    assert await alice.ok("GET", "/v1/connect/gemini/token") == {"token": TOKEN}
    assert await bob.ok("GET", "/v1/connect/tokens") == {"tokens": [{"vendor": "gemini", "token": ""}]}
    assert (await alice.ok("GET", "/v1/connect/tokens"))["tokens"] == [
        {"vendor": "anthropic", "token": f"anthropic {TOKEN}"},
        {"vendor": "gemini", "token": TOKEN},
        {"vendor": "openai", "token": f"openai {TOKEN}"},
    ]
    assert (await alice.ok("GET", "/v1/account/profile"))["connectedServices"] == ["anthropic", "gemini", "openai"]
    for _ in range(2):
        assert await alice.ok("DELETE", "/v1/connect/gemini") == {"success": True}
    assert await alice.ok("GET", "/v1/connect/gemini/token") == {"token": None}
    assert await bob.ok("GET", "/v1/connect/gemini/token") == {"token": ""}
    assert (await alice.ok("GET", "/v1/account/profile"))["connectedServices"] == ["anthropic", "openai"]
    assert await ui.heard() == []


@pytest.mark.parametrize("vendor", ["github", "OpenAI", "x", "%00", "openai%2f"])
async def test_unknown_vendors_are_rejected(world: World, vendor: str) -> None:
    alice = await world.account()
    for answer in (
        await alice.post(f"/v1/connect/{vendor}/register", {"token": "x"}),
        await alice.get(f"/v1/connect/{vendor}/token"),
    ):
        assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
    if vendor != "github":  # which has a DELETE of its own
        assert (await alice.delete(f"/v1/connect/{vendor}")).status_code == 400


@pytest.mark.parametrize("body", [{}, {"token": None}, {"token": 5}, [], "x"])
async def test_an_invalid_body_changes_nothing(world: World, body: object) -> None:
    alice = await world.account()
    await alice.ok("POST", "/v1/connect/openai/register", {"token": "kept"})
    answer = await alice.post("/v1/connect/openai/register", body)
    assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
    assert await alice.ok("GET", "/v1/connect/openai/token") == {"token": "kept"}


async def test_a_token_on_disk_is_encrypted_in_the_documented_format(world: World, server: Process) -> None:
    alice = await world.account()
    await alice.ok("POST", "/v1/connect/anthropic/register", {"token": TOKEN})
    ((sealed,),) = databases.query(server.folder, "SELECT token FROM vendor_tokens WHERE account_id = ?", (alice.id,))
    assert b"secret" not in sealed
    assert sealed[0] == 0
    assert Vault(SECRET).open(["user", alice.id, "vendors", "anthropic", "token"], sealed) == TOKEN
    assert Vault("another").open(["user", alice.id, "vendors", "anthropic", "token"], sealed) is None


async def test_a_damaged_token_counts_as_none(world: World, server: Process) -> None:
    alice = await world.account()
    await alice.ok("POST", "/v1/connect/openai/register", {"token": TOKEN})
    await alice.ok("POST", "/v1/connect/gemini/register", {"token": "fine"})
    damage = "UPDATE vendor_tokens SET token = ? WHERE account_id = ? AND vendor = 'openai'"
    databases.query(server.folder, damage, (b"\0", alice.id))
    assert await alice.ok("GET", "/v1/connect/openai/token") == {"token": None}
    assert await alice.ok("GET", "/v1/connect/tokens") == {"tokens": [{"vendor": "gemini", "token": "fine"}]}
