"""Sign-in with a signature, and pairing of devices."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from typing import Any
from urllib.parse import quote

import nacl.signing
import pytest

from happy_light.auth import devices
from happy_light.auth.devices import NewDevice
from happy_light.bus import Bus
from happy_light.domains import auth
from happy_light.store import Database, ReadTransaction, SqliteEngine, Transaction
from tests.client import Account, World, b64

KINDS = ("", "account/")


def key() -> str:
    """Return the box key of a new terminal."""
    return b64(os.urandom(32))


def claims_of(token: str) -> Any:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def ask(world: World, public_key: str, kind: str = "", **more: Any) -> Any:
    response = await world.http.post(f"/v1/auth/{kind}request", json={"publicKey": public_key, **more})
    assert response.status_code == 200, response.text
    return response.json()


async def status(world: World, public_key: str) -> Any:
    response = await world.http.get(f"/v1/auth/request/status?publicKey={quote(public_key, safe='')}")
    assert response.status_code == 200
    return response.json()


async def approve(account: Account, public_key: str, response: str, kind: str = "") -> Any:
    return await account.ok("POST", f"/v1/auth/{kind}response", {"publicKey": public_key, "response": response})


async def test_a_signature_signs_in_to_the_one_account_of_its_key(world: World) -> None:
    alice = await world.account()
    again, other = await world.account(alice.key), await world.account()
    assert again.id == alice.id != other.id
    assert re.fullmatch(r"c[0-9a-z]{24}", alice.id)
    assert alice.claims.keys() == {"sub", "iss", "iat", "nbf", "jti"}
    assert alice.claims["iss"] == "handy"
    assert alice.claims["jti"] != again.claims["jti"]
    assert (await alice.ok("GET", "/v1/account/profile"))["id"] == alice.id


async def test_concurrent_sign_ins_with_a_new_key_make_one_account(world: World) -> None:
    signing = nacl.signing.SigningKey.generate()
    accounts = await asyncio.gather(*(world.account(signing) for _ in range(8)))
    assert len({account.id for account in accounts}) == 1


async def test_an_invalid_signature_is_401(world: World) -> None:
    signing, other = nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate()
    challenge = os.urandom(32)
    public, good = b64(bytes(signing.verify_key)), signing.sign(challenge).signature
    for body in (
        {"publicKey": public, "challenge": b64(b"another"), "signature": b64(good)},
        {"publicKey": b64(bytes(other.verify_key)), "challenge": b64(challenge), "signature": b64(good)},
        {"publicKey": public, "challenge": b64(challenge), "signature": b64(bytes(64))},
        {"publicKey": public, "challenge": b64(challenge), "signature": ""},
        {"publicKey": public, "challenge": b64(challenge), "signature": b64(good[:63])},
        {"publicKey": public, "challenge": b64(challenge), "signature": b64(good + b"x")},
        {"publicKey": b64(bytes(31)), "challenge": b64(challenge), "signature": b64(good)},
        {"publicKey": "", "challenge": "", "signature": ""},
    ):
        response = await world.http.post("/v1/auth", json=body)
        assert (response.status_code, response.json()) == (401, {"error": "Invalid signature"}), body


@pytest.mark.parametrize("body", [{}, [], None, 5, {"publicKey": 5, "challenge": "", "signature": ""},
                                  {"publicKey": "%%%", "challenge": "", "signature": ""},
                                  {"publicKey": "a", "challenge": "a", "signature": "a"}])  # fmt: skip
async def test_an_invalid_sign_in_body_is_400(world: World, body: Any) -> None:
    response = await world.http.post("/v1/auth", json=body)
    assert response.status_code == 400
    assert response.json().keys() == {"error", "message", "statusCode"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_approved_device_gets_a_token(world: World, kind: str) -> None:
    alice, public_key = await world.account(), key()
    assert (await ask(world, public_key, kind))["state"] == "requested"
    assert (await ask(world, public_key, kind))["state"] == "requested"
    assert await approve(alice, public_key, "sealed", kind) == {"success": True}

    answer = await ask(world, public_key, kind)

    assert answer.keys() >= {"state", "token", "response"}
    assert (answer["state"], answer["response"]) == ("authorized", "sealed")
    claims = claims_of(answer["token"])
    assert claims["sub"] == alice.id
    assert ("session" in claims) == (kind == "")
    world.http.headers["Authorization"] = f"Bearer {answer['token']}"
    assert (await world.http.get("/v1/account/profile")).json()["id"] == alice.id


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_response_wins_and_an_empty_one_changes_nothing(world: World, kind: str) -> None:
    alice, mallory, public_key = await world.account(), await world.account(), key()
    await ask(world, public_key, kind)
    assert await approve(mallory, public_key, "", kind) == {"success": True}
    assert (await ask(world, public_key, kind))["state"] == "requested"
    assert await approve(alice, public_key, "first", kind) == {"success": True}
    assert await approve(mallory, public_key, "second", kind) == {"success": True}
    answer = await ask(world, public_key, kind)
    assert (answer["response"], claims_of(answer["token"])["sub"]) == ("first", alice.id)


async def test_concurrent_responses_have_one_winner(world: World) -> None:
    accounts, public_key = [await world.account() for _ in range(5)], key()
    await ask(world, public_key)
    await asyncio.gather(*(approve(account, public_key, account.id) for account in accounts))
    answer = await ask(world, public_key)
    assert answer["response"] == claims_of(answer["token"])["sub"]


async def test_the_status_of_a_pairing_request(world: World) -> None:
    alice, v1, v2 = await world.account(), key(), key()
    assert await status(world, v2) == {"status": "not_found", "supportsV2": False}
    await ask(world, v2, supportsV2=True)
    await ask(world, v2, supportsV2=False)  # a later wish does not change the request
    await ask(world, v1, supportsV2=None)
    assert await status(world, v2) == {"status": "pending", "supportsV2": True}
    assert await status(world, v1) == {"status": "pending", "supportsV2": False}
    await approve(alice, v2, "x")
    assert await status(world, v2) == {"status": "authorized", "supportsV2": False}
    for bad in ("", "%25", "AAAA", "not base64", "\u00fc", b64(os.urandom(33)), "A" * 5000):
        assert await status(world, bad) == {"status": "not_found", "supportsV2": False}
    assert (await world.http.get("/v1/auth/request/status")).status_code == 400


async def test_a_terminal_and_a_device_of_the_same_key_are_two_requests(world: World) -> None:
    alice, public_key = await world.account(), key()
    await ask(world, public_key)
    await ask(world, public_key, "account/")
    await approve(alice, public_key, "terminal")
    assert (await ask(world, public_key, "account/"))["state"] == "requested"
    assert (await ask(world, public_key))["response"] == "terminal"


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_of_a_wrong_length_and_unknown_ones(world: World, kind: str) -> None:
    alice = await world.account()
    for bad in ("", b64(bytes(31)), b64(bytes(33))):
        for response in (
            await world.http.post(f"/v1/auth/{kind}request", json={"publicKey": bad}),
            await alice.post(f"/v1/auth/{kind}response", {"publicKey": bad, "response": "x"}),
        ):
            assert (response.status_code, response.json()) == (401, {"error": "Invalid public key"})
    response = await alice.post(f"/v1/auth/{kind}response", {"publicKey": key(), "response": "x"})
    assert (response.status_code, response.json()) == (404, {"error": "Request not found"})
    for body in ({}, {"publicKey": 5}, {"publicKey": "%"}, {"publicKey": key(), "supportsV2": "yes"}):
        response = await world.http.post(f"/v1/auth/{kind}request", json=body)
        assert response.status_code == 400, body
    assert (await world.http.post(f"/v1/auth/{kind}response", json={})).status_code == 401


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "bearer TOKEN", "Basic TOKEN", "TOKEN"],
)
async def test_a_header_without_bearer_counts_as_missing(world: World, header: str | None) -> None:
    alice = await world.account()
    headers = {} if header is None else {"Authorization": header.replace("TOKEN", alice.token)}
    response = await world.http.get("/v1/account/profile", headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": "Missing authorization header"})


async def test_invalid_tokens_are_401(world: World) -> None:
    import jwt

    from happy_light.auth.tokens import Signer

    alice = await world.account()
    head, payload, signature = alice.token.split(".")
    ours = Signer("test-secret", "handy", "handy Persistent Token")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    now = alice.claims["iat"]
    for bad in (
        "x", "a.b.c", f"{head}.{payload}.", f"{none}.{payload}.", f"{head}.{payload}.{signature[:-4]}AAAA",
        jwt.encode(alice.claims, "x" * 32, algorithm="HS256"),
        Signer("another secret", "handy", "handy Persistent Token").mint(alice.id),
        Signer("test-secret", "github-happy", "handy Persistent Token").mint(alice.id),
        Signer("test-secret", "handy", "github-happy Ephemeral Token").mint(alice.id),
        ours.mint("cnosuchaccount"), ours.mint(alice.id, now + 3600), ours.mint(alice.id, exp=now - 60),
        "x" * 5000,
    ):  # fmt: skip
        response = await world.http.get("/v1/account/profile", headers={"Authorization": f"Bearer {bad}"})
        assert (response.status_code, response.json()) == (401, {"error": "Invalid token"}), bad
    good = ours.mint(alice.id, now, id=alice.claims["jti"], extra="claim")
    assert (await world.http.get("/v1/account/profile", headers={"Authorization": f"Bearer {good}"})).is_success


async def test_pairing_requests_expire(tmp_path: Any) -> None:
    store = Database(SqliteEngine(tmp_path / "db"), Bus())
    await store.open()
    day, ten_minutes = 86_400_000, 600_000

    def age(tx: Transaction, kind: auth.Kind, public_key: bytes, ms: int) -> None:
        tx.execute(
            "UPDATE auth_requests SET created_at = created_at - ?, picked_up_at = picked_up_at - ? "
            "WHERE public_key = ?",
            (ms, ms, public_key.hex().upper()),
        )

    def rows(rx: ReadTransaction) -> int:
        row = rx.fetch_one("SELECT count(*) FROM auth_requests")
        assert row is not None
        return int(row[0])

    try:
        account, _ = await store.write_for((), auth.get_or_create_account, b"k" * 32, "open")
        lonely, answered = b"1" * 32, b"2" * 32
        for public_key in (lonely, answered):
            await store.write_for((), auth.request_pairing, "terminal", public_key, False)
        phone, terminal = NewDevice("phone", "signature", None, None), NewDevice("t", "terminal", None, None)
        await store.write(account, devices.record, phone, None)
        await store.write(account, auth.approve_pairing, "terminal", answered, "x", "phone")
        picked_up = await store.write(account, auth.pick_up, "terminal", answered, terminal)
        assert picked_up is not None and (picked_up.response, picked_up.device_id) == ("x", "t")
        await store.write_for((), age, "terminal", lonely, day - 60_000)
        await store.write_for((), age, "terminal", answered, ten_minutes - 60_000)
        assert await store.write_for((), auth.delete_expired) == 0
        assert (await store.read(auth.find_pairing, "terminal", lonely)) is not None
        assert (await store.read(auth.find_pairing, "terminal", answered)) is not None
        for public_key in (lonely, answered):
            await store.write_for((), age, "terminal", public_key, 120_000)
            assert (await store.read(auth.find_pairing, "terminal", public_key)) is None
        # Whoever knows the key of an old request gets a new one, not the old token.
        assert (await store.write_for((), auth.request_pairing, "terminal", answered, False)).response is None
        assert await store.write_for((), auth.delete_expired) == 1
        assert await store.read(rows) == 1
    finally:
        await store.close()


async def test_the_number_of_unanswered_requests_is_bounded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.domains.auth.pairing.REQUESTS_MAX", 10)
    store = Database(SqliteEngine(tmp_path / "db"), Bus())
    await store.open()
    try:
        keys = [bytes([number]) * 32 for number in range(15)]
        aged = "UPDATE auth_requests SET created_at = created_at - ? WHERE public_key = ?"
        for number, public_key in enumerate(keys):
            parameters = ((15 - number) * 1000, public_key.hex().upper())
            await store.write_for((), auth.request_pairing, "terminal", public_key, False)
            await store.write_for((), Transaction.execute, aged, parameters)
        await store.write_for((), auth.delete_expired)
        found = [await store.read(auth.find_pairing, "terminal", public_key) for public_key in keys]
        assert [request is not None for request in found] == [False] * 4 + [True] * 11  # the newest stay
    finally:
        await store.close()
