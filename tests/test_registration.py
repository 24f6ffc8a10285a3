"""Registration: who may make an account, by the setting, in a window, or by name."""

from __future__ import annotations

import os
import re

import httpx
import nacl.signing
import pytest

from happy_light.auth.fingerprints import fingerprint
from tests.client import World, b64
from tests.commands import ok, run
from tests.conftest import Process, Start

CLOSED = {"HAPPY_SERVER_LIGHT_REGISTRATION": "closed"}


async def sign_in(url: str, key: nacl.signing.SigningKey) -> httpx.Response:
    challenge = os.urandom(32)
    body = {
        "publicKey": b64(bytes(key.verify_key)),
        "challenge": b64(challenge),
        "signature": b64(key.sign(challenge).signature),
    }
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as http:
        return await http.post("/v1/auth", json=body)


def new_key() -> tuple[nacl.signing.SigningKey, str]:
    key = nacl.signing.SigningKey.generate()
    return key, fingerprint(bytes(key.verify_key))


async def test_closed_refuses_new_keys_with_a_sentence_and_logs_their_fingerprint(start: Start) -> None:
    server: Process = start(**CLOSED)
    key, fingerprint = new_key()

    refused = await sign_in(server.url, key)

    assert refused.status_code == 403
    assert refused.json().keys() == {"error", "fingerprint"}
    assert refused.json()["fingerprint"] == fingerprint
    assert refused.json()["error"].endswith(".")
    await server.wait_for_log(fingerprint)
    log = "".join(server.log)
    assert bytes(key.verify_key).hex() not in log.lower()
    assert await ok(server.folder, "accounts", "list") == []


async def test_a_wrong_signature_is_refused_as_such_before_registration_is_looked_at(start: Start) -> None:
    server: Process = start(**CLOSED)
    body = {"publicKey": b64(os.urandom(32)), "challenge": b64(os.urandom(32)), "signature": b64(os.urandom(64))}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as http:
        answer = await http.post("/v1/auth", json=body)
    assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})


async def test_existing_accounts_sign_in_whatever_the_setting_is(start: Start) -> None:
    server: Process = start()
    key, _ = new_key()
    first = (await sign_in(server.url, key)).json()
    server.stop()

    again = await sign_in(start(folder=server.folder, **CLOSED).url, key)

    assert again.status_code == 200
    assert first["token"].split(".")[1] != again.json()["token"].split(".")[1]


async def test_first_closes_after_the_first_account(start: Start) -> None:
    server: Process = start(HAPPY_SERVER_LIGHT_REGISTRATION="first")
    (mine, _), (other, _) = new_key(), new_key()
    statuses = [(await sign_in(server.url, key)).status_code for key in (mine, other, mine)]
    assert statuses == [200, 403, 200]


@pytest.mark.parametrize("form", ["fingerprint", "hex", "base64", "base64url"])
async def test_a_key_that_is_let_in_makes_its_account_and_others_do_not(start: Start, form: str) -> None:
    server: Process = start(**CLOSED)
    (key, fingerprint), (other, _) = new_key(), new_key()
    public = bytes(key.verify_key)
    text = {
        "fingerprint": fingerprint,
        "hex": public.hex().upper(),
        "base64": b64(public),
        "base64url": b64(public).replace("+", "-").replace("/", "_").rstrip("="),
    }[form]

    state = await ok(server.folder, "accounts", "allow", f"{text}")

    assert state == {
        "setting": "closed",
        "mode": "closed",
        "openUntil": None,
        "allowed": [fingerprint],
        "accepts": False,
    }
    assert (await sign_in(server.url, other)).status_code == 403
    assert (await sign_in(server.url, key)).status_code == 200
    assert (await ok(server.folder, "registration"))["allowed"] == []
    assert (await sign_in(server.url, key)).status_code == 200


async def test_a_window_lets_everybody_in_until_it_is_closed(start: Start) -> None:
    server: Process = start(**CLOSED)
    assert (await sign_in(server.url, new_key()[0])).status_code == 403

    opened = await ok(server.folder, "registration", "open", "--for", "10m")
    assert opened["accepts"] is True
    assert (await sign_in(server.url, new_key()[0])).status_code == 200

    closed = await ok(server.folder, "registration", "close")
    assert (closed["accepts"], closed["openUntil"]) == (False, None)
    assert (await sign_in(server.url, new_key()[0])).status_code == 403


async def test_a_window_ends_by_itself(start: Start) -> None:
    server: Process = start(**CLOSED)
    key, _ = new_key()
    await ok(server.folder, "registration", "open", "--for", "1s")
    async with World(server.url) as world:
        for _ in range(200):
            if (await ok(server.folder, "registration"))["openUntil"] is None:
                break
        assert (await sign_in(str(world.http.base_url), key)).status_code == 403


async def test_a_window_opened_while_no_server_runs_counts_when_it_does(start: Start) -> None:
    server: Process = start(**CLOSED)
    server.stop()
    await ok(server.folder, "registration", "open", "--for", "1h")
    assert (await sign_in(start(folder=server.folder, **CLOSED).url, new_key()[0])).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("registration", "open"), "arguments are required: --for"),
        (("registration", "close", "--for", "3m"), "unrecognized arguments: --for 3m"),
        (("registration", "open", "--for", "60d"), "30 days"),
        (("accounts", "allow", "nonsense"), "no public key"),
        (("accounts", "allow"), "arguments are required: key"),
    ],
)
async def test_what_does_not_fit_is_refused_with_a_sentence(
    start: Start, arguments: tuple[str, ...], text: str
) -> None:
    server: Process = start()
    result = await run(server.folder, *arguments)
    assert (result.status, result.out) == (2, "")
    assert re.search(rf"^happy-server-light.*: .*{text}", result.err, re.MULTILINE)
