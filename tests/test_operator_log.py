"""What an operator reads in the log: who comes in, who is refused and from where, what was done by whom."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import httpx
import nacl.signing
import pytest

from tests.client import World, b64
from tests.commands import ok, run
from tests.conftest import Process, Start

pytestmark = pytest.mark.slow
OPERATE = Path(__file__).parent.parent / "docs" / "operate.md"


async def said(server: Process, pattern: str) -> str:
    """Wait for a line of the log. Return it."""
    deadline = time.monotonic() + 20  # the log is read on a thread of its own
    while True:
        for line in list(server.log):
            if re.search(pattern, line):
                return line
        assert time.monotonic() < deadline, (pattern, server.log)
        await asyncio.sleep(0.01)


async def test_accounts_and_sign_ins_are_logged_with_the_address(process: Process, own: World) -> None:
    alice = await own.account()
    await said(process, rf"INFO .* account {alice.id} created from 127\.0\.0\.1, key [0-9a-f-]+\n")
    await own.account(alice.key)
    await said(process, rf"INFO .* account {alice.id} signed in from 127\.0\.0\.1\n")
    key = b64(os.urandom(32))
    await own.http.post("/v1/auth/request", json={"publicKey": key})
    await said(process, r"INFO .* a terminal asks to be paired from 127\.0\.0\.1\n")
    await alice.ok("POST", "/v1/auth/response", {"publicKey": key, "response": "r"})
    await own.http.post("/v1/auth/request", json={"publicKey": key})
    await said(process, rf"INFO .* account {alice.id}: a terminal signed in from 127\.0\.0\.1\n")
    assert "WARNING" not in "".join(process.log)


async def test_refusals_are_logged_with_the_address_and_match_the_filter(start: Start) -> None:
    server = start("--registration", "closed")
    key = nacl.signing.SigningKey.generate()
    challenge = os.urandom(32)
    body = {"publicKey": b64(bytes(key.verify_key)), "challenge": b64(challenge)}
    good, bad = b64(key.sign(challenge).signature), b64(bytes(64))
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as http:
        for address, signature in (("203.0.113.7", bad), ("2001:db8::7", good)):
            answer = await http.post(
                "/v1/auth", json={**body, "signature": signature}, headers={"x-forwarded-for": address}
            )
            assert answer.status_code in (401, 403)
        strange = {"x-forwarded-for": "203.0.113.8 INFO faked"}
        await http.post("/v1/auth", json={**body, "signature": bad}, headers=strange)
        await http.get("/v1/sessions", headers={"authorization": "Bearer nonsense", "x-forwarded-for": "203.0.113.9"})
    lines = [
        await said(server, r"WARNING .* sign-in refused from 203\.0\.113\.7: Invalid signature\n"),
        await said(server, r"WARNING .* sign-in refused from 2001:db8::7: This server takes .*, key [0-9a-f-]+\n"),
    ]
    await said(server, r"sign-in refused from unknown: Invalid signature\n")
    token = await said(server, r"INFO .* token refused from 203\.0\.113\.9: GET /v1/sessions: Invalid token\n")
    assert "faked" not in "".join(server.log) and "nonsense" not in "".join(server.log)

    pattern = re.search(r"^failregex = (.*)$", OPERATE.read_text("utf-8"), re.MULTILINE)
    assert pattern is not None, "docs/operate.md has the filter"
    host = r"(?P<host>[0-9a-fA-F.:]+)"  # what fail2ban puts in the place of <HOST>, in short
    matched = [re.search(pattern[1].replace("<HOST>", host), line) for line in lines]
    assert [match and match["host"] for match in matched] == ["203.0.113.7", "2001:db8::7"]
    assert re.search(pattern[1].replace("<HOST>", host), token) is None, "a phone with an old token is not banned"


async def test_sockets_are_logged_at_debug(start: Start) -> None:
    server = start("--log-level", "debug")
    async with World(server.url) as world:
        alice = await world.account()
        socket = await alice.socket(happyClient="ios/1.2")
        whose = rf"DEBUG .* socket of account {alice.id}"
        await said(server, whose + r" connected from this computer: user-scoped , .*ios/1\.2")
        await socket.close()
        await said(server, whose + r" ended: user-scoped , .*ios/1\.2.*: ")
        with pytest.raises(Exception):  # noqa: B017 whatever the client makes of it
            await world.socket({"token": "nonsense"})
        await said(server, r"INFO .* socket refused from this computer: Invalid authentication token\n")
    assert "nonsense" not in "".join(server.log)


async def test_an_access_log_is_a_setting(start: Start, process: Process, own: World, tmp_path: Path) -> None:
    server = start(folder=tmp_path / "second", HAPPY_SERVER_LIGHT_ACCESS_LOG="true")
    async with World(server.url) as world:
        alice = await world.account()
        await alice.request("DELETE", "/v1/push-tokens/ExponentPushToken%5Bsecret%5D")
        await world.http.get("/health?token=secret")
        await said(server, r"INFO happy_light\.access: 127\.0\.0\.1 POST /v1/auth 200 [0-9.]+ ms\n")
        await said(server, r"access: 127\.0\.0\.1 DELETE /v1/push-tokens/\[token\] 200 ")
        await said(server, r"access: 127\.0\.0\.1 GET /health 200 ")
    assert "secret" not in "".join(server.log)
    await own.http.get("/health")
    assert process.stop() == 0
    assert "happy_light.access" not in "".join(process.log)


async def test_what_operators_do_is_logged_with_its_object(process: Process, own: World) -> None:
    alice = await own.account()
    await ok(process.folder, "registration", "open", "--for", "10m")
    await said(process, r"INFO .* registration is open for everybody for 600 s\n")
    await ok(process.folder, "accounts", "allow", "00" * 32)
    await said(process, r"INFO .* key [0-9a-f-]+ may create an account\n")
    await ok(process.folder, "accounts", "sign-out", alice.id)
    await said(process, rf"INFO .* operator \S+: POST /admin/api/accounts/{alice.id}/sign-out\n")
    assert (await run(process.folder, "accounts", "delete", alice.id, "--yes")).status == 0
    await said(process, rf"INFO .* account {alice.id} is deleted: 0 messages, 0 bytes of files\n")
