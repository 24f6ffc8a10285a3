"""Sign-in with a challenge of the server: bound to a key, valid for five minutes and once."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from typing import Any

import httpx
import nacl.signing
import pytest

from happy_light.auth.challenges import Challenges
from tests import databases
from tests.client import Account, World, b64
from tests.conftest import SECRET, Process
from tests.test_people import execute

LIFETIME = 5 * 60_000  # ms


async def challenge(world: World, key: nacl.signing.SigningKey) -> bytes:
    answer = await world.http.post("/v1/auth/request", json={"publicKey": b64(bytes(key.verify_key))})
    assert answer.status_code == 200
    return base64.b64decode(answer.json()["challenge"], validate=True)


async def prove(
    world: World, key: nacl.signing.SigningKey, text: bytes, path: str = "/v1/auth/response", **changed: Any
) -> httpx.Response:
    body = {
        "publicKey": b64(bytes(key.verify_key)), "challenge": b64(text), "signature": b64(key.sign(text).signature),
        **changed,
    }  # fmt: skip
    return await world.http.post(path, json=body)


def said(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()["error"]


async def test_a_signed_challenge_signs_in_to_the_account_of_the_key(world: World) -> None:
    alice = await world.account()
    answer = await prove(world, alice.key, await challenge(world, alice.key))
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"success", "token"}
    again = Account(world, body["token"], alice.key)
    assert again.id == alice.id
    assert (await again.ok("GET", "/v1/account/profile"))["id"] == alice.id


async def test_a_signed_challenge_creates_an_account_for_a_new_key(world: World) -> None:
    key = nacl.signing.SigningKey.generate()
    answer = await prove(world, key, await challenge(world, key))
    bob = Account(world, answer.json()["token"], key)
    assert (await world.account(key)).id == bob.id


async def test_every_poll_returns_another_challenge(world: World) -> None:
    alice, key = await world.account(), nacl.signing.SigningKey.generate()
    public = {"publicKey": b64(bytes(key.verify_key))}
    first, second = await challenge(world, key), await challenge(world, key)
    assert first != second
    await alice.ok("POST", "/v1/auth/response", {**public, "response": "sealed"})
    answer = (await world.http.post("/v1/auth/request", json=public)).json()
    assert answer.keys() == {"state", "token", "response", "challenge"}
    second_device = (await world.http.post("/v1/auth/account/request", json=public)).json()
    assert second_device == {"state": "requested"}


@pytest.mark.parametrize("path", ["/v1/auth/response", "/v1/auth"])
async def test_a_challenge_is_valid_once_on_all_routes_together(world: World, path: str) -> None:
    key = nacl.signing.SigningKey.generate()
    text = await challenge(world, key)
    assert (await prove(world, key, text)).status_code == 200
    assert said(await prove(world, key, text, path)) == (401, "Invalid challenge")
    assert (await prove(world, key, await challenge(world, key), path)).status_code == 200


async def test_one_of_many_concurrent_uses_of_a_challenge_succeeds(world: World) -> None:
    key = nacl.signing.SigningKey.generate()
    text = await challenge(world, key)
    answers = await asyncio.gather(*(prove(world, key, text) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_a_used_challenge_stays_used_after_a_restart(start: Any) -> None:
    key = nacl.signing.SigningKey.generate()
    first = start()
    async with World(first.url) as world:
        text = await challenge(world, key)
        assert (await prove(world, key, text)).status_code == 200
        unused = await challenge(world, key)
    assert first.stop() == 0
    async with World(start(folder=first.folder).url) as world:
        assert said(await prove(world, key, text)) == (401, "Invalid challenge")
        assert (await prove(world, key, unused)).status_code == 200


async def test_a_failed_attempt_does_not_use_the_challenge(world: World) -> None:
    key = nacl.signing.SigningKey.generate()
    text = await challenge(world, key)
    assert said(await prove(world, key, text, signature=b64(bytes(64)))) == (401, "Invalid signature")
    assert said(await prove(world, key, text, signature="")) == (401, "Invalid signature")
    assert (await prove(world, key, text)).status_code == 200


async def test_a_challenge_is_bound_to_its_key_and_made_by_the_server(world: World) -> None:
    alice, mallory = nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate()
    text = await challenge(world, alice)
    assert said(await prove(world, mallory, text)) == (401, "Invalid challenge")
    foreign = Challenges("another secret").make(bytes(mallory.verify_key), int(time.time() * 1000))
    changed = bytes([text[0] ^ 1]) + text[1:]
    for bad in (b"", b"x", os.urandom(32), os.urandom(56), changed, text[:-1], text + b"\0", foreign):
        assert said(await prove(world, alice, bad)) == (401, "Invalid challenge")
    assert (await prove(world, alice, text)).status_code == 200


async def test_a_challenge_is_valid_for_five_minutes(world: World, server: Process) -> None:
    key = nacl.signing.SigningKey.generate()
    now = int(time.time() * 1000)
    made = [Challenges(SECRET).make(bytes(key.verify_key), now - LIFETIME + left) for left in (-1_000, 60_000)]
    assert said(await prove(world, key, made[0])) == (401, "Invalid challenge")
    assert (await prove(world, key, made[1])).status_code == 200


async def test_requesting_a_challenge_stores_nothing_and_expired_rows_are_deleted(start: Any) -> None:
    server = start()
    key = nacl.signing.SigningKey.generate()
    async with World(server.url) as world:
        execute(server, "INSERT INTO used_challenges VALUES (x'00', 5)")
        for _ in range(20):
            await prove(world, key, await challenge(world, key), signature=b64(bytes(64)))
        assert rows(server) == [b"\0"]
        text = await challenge(world, key)
        assert (await prove(world, key, text)).status_code == 200
        assert rows(server) == [text]


def rows(server: Process) -> list[bytes]:
    return [row[0] for row in databases.query(server.folder, "SELECT challenge FROM used_challenges")]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"{", b"\xff", b'{"publicKey":"AA==","response":"x"}', b'{"publicKey":"AA=="}',
        b'{"challenge":"AA=="}', b"[" * 20_000, b'{"challenge":"' + b"A" * 200_000 + b'","signature":"AA=="}',
    ],
)  # fmt: skip
async def test_without_token_and_signature_it_is_401(world: World, content: bytes) -> None:
    answer = await world.http.post("/v1/auth/response", content=content, headers={"content-type": "application/json"})
    assert said(answer) == (401, "Missing authorization header")


@pytest.mark.parametrize("name", ["publicKey", "challenge", "signature"])
@pytest.mark.parametrize("value", [None, 5, [], {}, "%%%", "AAA"])
async def test_an_invalid_signature_body_is_400(world: World, name: str, value: Any) -> None:
    key = nacl.signing.SigningKey.generate()
    answer = await prove(world, key, await challenge(world, key), **{name: value})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "message", "statusCode"}


@pytest.mark.parametrize("size", [0, 31, 33])
async def test_a_key_of_a_wrong_length_is_401(world: World, size: int) -> None:
    short = Challenges(SECRET).make(bytes(size), int(time.time() * 1000))
    answer = await prove(world, nacl.signing.SigningKey.generate(), short, publicKey=b64(bytes(size)))
    assert said(answer) == (401, "Invalid signature")


async def test_with_a_token_the_route_approves_a_request(world: World) -> None:
    alice = await world.account()
    key = nacl.signing.SigningKey.generate()
    text = await challenge(world, key)
    public = b64(bytes(key.verify_key))
    proof = {"publicKey": public, "challenge": b64(text), "signature": b64(key.sign(text).signature)}
    assert (await alice.post("/v1/auth/response", proof)).status_code == 400
    wrong = await world.http.post("/v1/auth/response", json=proof, headers={"authorization": "Bearer x"})
    assert said(wrong) == (401, "Invalid token")
    assert await alice.ok("POST", "/v1/auth/response", {**proof, "response": "sealed"}) == {"success": True}
    asked = (await world.http.post("/v1/auth/request", json={"publicKey": public})).json()
    assert (asked["state"], asked["response"]) == ("authorized", "sealed")
    assert (await prove(world, key, text)).status_code == 200  # the approval did not touch it
