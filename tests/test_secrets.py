"""What nobody is told: how the server fails inside, how far a guess was right; and how a sign-out takes effect."""

from __future__ import annotations

import ast
import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import happy_light
from happy_light import app
from happy_light.admin import account_admin
from happy_light.auth import devices
from happy_light.server import Server
from happy_light.store import Transaction
from tests.client import World, b64, uid
from tests.conftest import Process
from tests.raw_connections import Connection, PacketWebsocket
from tests.webapp import ask, build, running

pytestmark = pytest.mark.slow  # starts a server for each test

Inside = Callable[[], Awaitable[Server]]
PACKAGE = Path(happy_light.__file__).parent


# ----------------------------------------------------------------------------------- what went wrong
async def test_an_error_inside_is_a_500_that_says_nothing(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What an exception says can be SQL, a path or somebody's data: it is for the log."""
    server = await inside()

    async def raises(call: Any) -> None:
        raise RuntimeError("SELECT secret FROM /home/somebody")

    async def reads(call: Any) -> None:
        await server.database.read(lambda rx: rx.fetch_one("SELECT nothing FROM nowhere"))

    async def writes(call: Any) -> None:
        await server.database.write_for((), lambda tx: tx.execute("INSERT INTO sessions (id) VALUES (1)"))

    (route,) = [route for route in app.routes() if (route.method, route.path) == ("GET", "/v1/machines")]
    async with World(server.url) as world:
        alice = await world.account()
        for endpoint in (raises, reads, writes):
            with monkeypatch.context() as patched:
                patched.setattr(route, "endpoint", endpoint)
                answer = await alice.get("/v1/machines")
            assert (answer.status_code, answer.json()) == (
                500,
                {"error": "Internal Server Error", "message": "An unexpected error occurred", "statusCode": 500},
            )
            assert caplog.records[-1].exc_info, "it is in the log, for the operator"


# ---------------------------------------------------------------------------------------- comparing
def compared() -> Iterator[str]:
    """Every `==` and `!=` of what answers the network, as it stands in the source."""
    folders = ("auth/*.py", "http/*.py", "live/*.py", "domains/**/*.py", "ui/*.py")
    for path in [PACKAGE / "admin/metrics.py", *(path for folder in folders for path in PACKAGE.glob(folder))]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and any(isinstance(how, ast.Eq | ast.NotEq) for how in node.ops):
                yield f"{path.name}: {ast.unparse(node)}"


def test_what_proves_something_is_compared_in_constant_time() -> None:
    """`==` stops at the first byte that differs, and the time tells how many were right."""
    found = list(compared())
    assert len(found) > 50
    assert [text for text in found if re.search("digest|signature|seal|secret|hmac", text)] == []
    for name in ("auth/challenges.py", "auth/master_secret.py", "domains/github/webhook.py"):
        assert "hmac.compare_digest(" in (PACKAGE / name).read_text("utf-8")


# ----------------------------------------------------------------------------------------- sign-out
async def test_nobody_slips_in_while_a_sign_out_is_under_way(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is looked up, and before its socket is in, its account is signed out."""
    server = await inside()
    async with World(server.url) as world:
        alice, bob = await world.account(), await world.account()
        original = server.database.read

        def read(operation: Callable[..., Any], *args: Any) -> Any:
            async def meanwhile() -> Any:
                result = await original(operation, *args)
                if operation.__name__ == "_accepts":
                    monkeypatch.undo()
                    await server.database.write(alice.id, account_admin.sign_out)
                return result

            return meanwhile()

        monkeypatch.setattr(server.database, "read", read)
        with pytest.raises(ConnectionError, match="Invalid authentication token"):
            await alice.socket()
        assert not server.app.live.clients
        assert (await alice.get("/v1/machines")).status_code == 401
        assert await (await bob.socket()).call("ping") == {}


@pytest.mark.parametrize("path", ["/v3/sessions/{session}/messages", "/v1/auth/response"])
async def test_a_request_whose_body_ends_after_a_sign_out_is_refused(inside: Inside, path: str) -> None:
    server = await inside()
    async with World(server.url) as world, await Connection.open(server.url) as connection:
        alice, bob = await world.account(), await world.account()
        session = (await alice.session())["id"]
        body = json.dumps({"messages": [{"localId": "l", "content": "c"}]}).encode()
        head = f"Host: x\r\nAuthorization: Bearer {alice.token}\r\nContent-Type: application/json\r\n"
        start = f"POST {path.format(session=session)} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        await connection.send(start.encode() + body[:10])
        await bob.get("/v1/machines")  # by now the other request waits for the rest of its body
        await server.database.write(alice.id, account_admin.sign_out)
        await connection.send(body[10:])
        answer = await connection.answer()
        assert (answer.status, answer.json()) == (401, {"error": "Invalid token"})
        count = await server.database.read(lambda rx: rx.fetch_one("SELECT count(*) FROM messages"))
        assert count == (0,)


def sign_out_each(tx: Transaction, account_id: str) -> None:
    """Sign every device of the account out, one by one."""
    for device in devices.list_devices(tx, account_id):
        devices.sign_out_device(tx, account_id, device.id)


@pytest.mark.parametrize("end", [account_admin.sign_out, account_admin.disable, sign_out_each])
async def test_a_sign_out_whose_caller_is_cut_off_holds_at_once(
    inside: Inside, end: Callable[[Transaction, str], Any]
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        socket = await alice.socket()
        server.database.write(alice.id, end).cancel()
        async with asyncio.timeout(5):
            await socket.dropped.wait()
        assert (await alice.get("/v1/machines")).status_code == 401


@pytest.mark.parametrize("kind", ["", "account/"])
@pytest.mark.parametrize("end", [account_admin.sign_out, account_admin.disable])
@pytest.mark.parametrize("picked_up", [False, True])
async def test_an_approved_pairing_gives_no_token_after_a_sign_out(
    inside: Inside, kind: str, end: Callable[..., Any], picked_up: bool
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice, device = await world.account(), {"publicKey": b64(os.urandom(32))}
        await world.http.post(f"/v1/auth/{kind}request", json=device)
        await alice.ok("POST", f"/v1/auth/{kind}response", {**device, "response": "sealed"})
        if picked_up:
            assert (await world.http.post(f"/v1/auth/{kind}request", json=device)).json()["state"] == "authorized"
        await server.database.write(alice.id, end)
        answer = (await world.http.post(f"/v1/auth/{kind}request", json=device)).json()
        assert answer["state"] == "requested"
        assert "token" not in answer


@pytest.mark.parametrize("kind", ["", "account/"])
async def test_a_pairing_read_before_a_sign_out_gives_a_token_that_is_invalid(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """However long after the sign-out the token is made."""
    server = await inside()
    async with World(server.url) as world:
        alice, device = await world.account(), {"publicKey": b64(os.urandom(32))}
        await world.http.post(f"/v1/auth/{kind}request", json=device)
        await alice.ok("POST", f"/v1/auth/{kind}response", {**device, "response": "sealed"})
        await world.http.post(f"/v1/auth/{kind}request", json=device)
        original = server.database.read

        def read(operation: Callable[..., Any], *args: Any) -> Any:
            async def then_sign_out() -> Any:
                result = await original(operation, *args)
                monkeypatch.undo()
                await server.database.write(alice.id, account_admin.sign_out)
                await asyncio.sleep(1.1)  # tokens say the second in which they were made
                return result

            return then_sign_out()

        monkeypatch.setattr(server.database, "read", read)
        answer = (await world.http.post(f"/v1/auth/{kind}request", json=device)).json()
        headers = {"Authorization": f"Bearer {answer['token']}"}
        assert (await world.http.get("/v1/machines", headers=headers)).status_code == 401


async def test_a_sign_out_does_not_depend_on_the_clock(inside: Inside) -> None:
    """It was made while the clock was a century ahead, and new tokens are valid all the same."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()

        def sign_out(tx: Transaction, account_id: str) -> None:
            account_admin.sign_out(tx, account_id)
            tx.execute("UPDATE accounts SET tokens_since = 2 * tokens_since WHERE id = ?", (account_id,))

        await server.database.write(alice.id, sign_out)
        assert (await alice.get("/v1/machines")).status_code == 401
        again = await world.account(alice.key)
        await again.ok("GET", "/v1/machines")


async def test_tokens_without_a_generation_are_valid_until_the_next_sign_out(inside: Inside) -> None:
    """Those of other servers and of older versions."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        alice.token = server.keys.tokens.signer.mint(alice.id)
        await server.database.write_for((alice.id,), devices.record_unknown, "older", alice.id)
        await alice.ok("GET", "/v1/machines")
        await server.database.write(alice.id, account_admin.sign_out)
        assert (await alice.get("/v1/machines")).status_code == 401


async def test_a_connection_that_said_disconnect_does_nothing_any_more(inside: Inside) -> None:
    """Its websocket stays open for a while, and a sign-out would not find it among the sockets."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        async with await PacketWebsocket.open(server.url) as wire:
            await wire.connect({"token": alice.token})
            await wire.send("41")
            async with asyncio.timeout(10):
                while len(server.app.live.clients) > 1:
                    await asyncio.sleep(0)
            await alice.get("/v1/machines")  # by now its packet is done with, and the next ones go the fast way
            await wire.send(f'421["message",{{"sid":"{session}","message":"ghost"}}]')
            await wire.send('42["machine-alive",{"machineId":"m","time":1}]')
            await wire.connect({"token": alice.token})
            await wire.send('422["ping"]')
            assert await wire.packet() == "432[{}]", "nothing was answered before"
        assert await ui.heard() == []


# -------------------------------------------------------------------------------------------- pages
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_servers_own_pages_can_neither_be_framed_nor_run_anything_foreign(server: Process, path: str) -> None:
    """A page in somebody else's frame gets clicks that are meant for theirs."""
    answer = ask(server, path, accept="text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy
    for element, text in re.findall(r"<(style|script)>(.*?)</\1>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_web_app_can_be_framed_by_itself_only(tmp_path: Path) -> None:
    """Its policy leaves it its own scripts and servers."""
    for server in running(build(tmp_path / "dist"), tmp_path / "data"):
        for path in ("/", "/index.html", f"/session/{uid()}"):
            headers = ask(server, path, accept="text/html").headers
            assert headers["content-security-policy"] == "base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
            assert headers["x-frame-options"] == "SAMEORIGIN"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
