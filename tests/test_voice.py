"""Voice: conversations within their limits, against a stand-in of the services, and LiveKit tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web

from happy_light.domains.voice import conversations
from happy_light.server import Server
from tests.client import Account, World
from tests.conftest import SECRET, Process, Start
from tests.test_people import execute

KEY = "eleven-key-which-no-log-may-show"
LIVEKIT = {"LIVEKIT_URL": "wss://live.example", "LIVEKIT_API_KEY": "lk-key", "LIVEKIT_API_SECRET": "s" * 40}


def conversation_token(room: Any = "room_agent_1_conv_01abcXYZ") -> str:
    return jwt.encode({"video": {"room": room}}, "k" * 32, algorithm="HS256")


class Services:
    """ElevenLabs and RevenueCat on loopback. `asked` is what they were asked, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.calls: Any = []
        self.token: Any = {"token": conversation_token()}
        self.subscriber: Any = {"entitlements": {}}
        self.status = 200
        self.pause = 0.0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.path, dict(request.query), headers))
        await asyncio.sleep(self.pause)
        if request.path.startswith("/v1/subscribers/"):
            value = {"subscriber": self.subscriber}
        else:
            value = self.token if request.path.endswith("/token") else {"conversations": self.calls}
        if isinstance(value, bytes):
            return web.Response(body=value, status=self.status)
        return web.json_response(value, status=self.status)

    def used(self, *seconds: float | None) -> None:
        self.calls = [{"conversation_id": "x", "call_duration_secs": each, "status": "done"} for each in seconds]


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    services = Services()
    app = web.Application()
    app.router.add_get("/{path:.*}", services.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    services.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield services
    await runner.cleanup()


@pytest.fixture
def launch(services: Services, start: Start) -> Callable[..., Process]:
    """Start a server that knows the stand-in."""

    def launch(**environ: str) -> Process:
        known = {
            "ELEVENLABS_API_KEY": KEY,
            "HAPPY_SERVER_LIGHT_ELEVENLABS_URL": services.url,
            "HAPPY_SERVER_LIGHT_REVENUECAT_URL": services.url,
        }
        return start(**{**known, **environ})

    return launch


def eleven(account: Account) -> str:
    digest = hmac.new(SECRET.encode(), account.id.encode(), hashlib.sha256).digest()
    return "u_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def said(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


async def begin(account: Account) -> Any:
    return await account.ok("POST", "/v1/voice/conversations", {"agentId": "agent_1"})


async def test_a_conversation_is_granted(services: Services, launch: Callable[..., Process]) -> None:
    server = launch()
    services.used(60, 1.5, None)
    async with World(server.url) as world:
        alice = await world.account()
        ui = await alice.socket()
        answer = await begin(alice)
        assert answer == {
            "allowed": True, "conversationToken": services.token["token"], "conversationId": "conv_01abcXYZ",
            "agentId": "agent_1", "elevenUserId": eleven(alice), "usedSeconds": 61, "limitSeconds": 18_000,
        }  # fmt: skip
        (path, query, headers), (token_path, token_query, _) = services.asked
        assert path == "/v1/convai/conversations"
        assert abs(int(query.pop("created_after")) - (time.time() - 30 * 86_400)) < 60
        assert query == {"user_id": eleven(alice), "page_size": "100"}
        assert headers["xi-api-key"] == KEY
        assert token_path == "/v1/convai/conversation/token"
        assert token_query == {"agent_id": "agent_1", "participant_name": eleven(alice)}
        assert await ui.heard() == []
    assert server.stop() == 0
    assert KEY not in "".join(server.log + server.printed)


async def test_usage_returns_usage_and_limits(services: Services, launch: Callable[..., Process]) -> None:
    services.used(100, 200)
    async with World(launch().url) as world:
        alice, bob = await world.account(), await world.account()
        assert await alice.ok("GET", "/v1/voice/usage") == {
            "usedSeconds": 300, "limitSeconds": 18_000, "conversationCount": 2, "conversationLimit": 100,
            "elevenUserId": eleven(alice),
        }  # fmt: skip
        assert eleven(bob) == (await bob.ok("GET", "/v1/voice/usage"))["elevenUserId"] != eleven(alice)


async def test_each_limit_denies_without_requesting_a_token(services: Services, launch: Callable[..., Process]) -> None:
    async with World(launch(HAPPY_SERVER_LIGHT_VOICE_MAX_SECONDS="500").url) as world:
        alice = await world.account()
        services.used(499)
        assert (await begin(alice))["allowed"] is True
        services.asked.clear()
        services.used(499, 1)
        assert await begin(alice) == {
            "allowed": False, "reason": "voice_hard_limit_reached", "usedSeconds": 500, "limitSeconds": 500,
            "agentId": "agent_1",
        }  # fmt: skip
        services.used(*[1] * 100)
        assert (await begin(alice))["reason"] == "voice_conversation_limit_reached"
        services.used(*[1] * 99)
        assert [path for path, _, _ in services.asked] == ["/v1/convai/conversations"] * 2
        assert (await begin(alice))["allowed"] is True


async def test_subscriptions_are_requested_only_with_a_key(services: Services, launch: Callable[..., Process]) -> None:
    services.used(1_200)
    async with World(launch().url) as world:
        assert (await begin(await world.account()))["allowed"] is True
    assert not any(path.startswith("/v1/subscribers") for path, _, _ in services.asked)


async def test_the_free_limit_applies_without_a_subscription(
    services: Services, launch: Callable[..., Process]
) -> None:
    async with World(launch(REVENUECAT_API_KEY="rc", HAPPY_SERVER_LIGHT_VOICE_FREE_SECONDS="100").url) as world:
        alice = await world.account()
        services.used(99)
        assert (await begin(alice))["limitSeconds"] == 100
        path, _, headers = services.asked[1]
        assert (path, headers["authorization"]) == (f"/v1/subscribers/{alice.id}", "Bearer rc")
        services.used(100)
        expired = {"pro": {"expires_date": "2020-01-01T00:00:00Z"}}
        for entitlements in ({}, expired):
            services.subscriber = {"entitlements": entitlements}
            answer = await begin(alice)
            assert (answer["reason"], answer["limitSeconds"]) == ("subscription_required", 100)
        for entitlement in ({"expires_date": None}, {"expires_date": "2999-01-01T00:00:00Z"}):
            services.subscriber = {"entitlements": {**expired, "voice": entitlement}}
            answer = await begin(alice)
            assert (answer["allowed"], answer["limitSeconds"]) == (True, 18_000)


NONSENSE: list[dict[str, Any]] = [
    {"status": 401}, {"status": 404}, {"status": 500}, {"status": 302},
    {"calls": None}, {"calls": [{"call_duration_secs": "x"}]},
    {"token": b"<html>"}, {"token": b""}, {"token": b"\xff"}, {"token": {}}, {"token": {"token": "no jwt"}},
    {"token": {"token": "a.%%%.c"}}, {"token": {"token": "a.\u00fc.c"}},
    {"token": {"token": conversation_token("room without one")}}, {"token": {"token": conversation_token(5)}},
    {"token": b'"' + b"x" * 5_000_000 + b'"'},
]  # fmt: skip


async def test_an_invalid_answer_of_a_service_is_502(services: Services, launch: Callable[..., Process]) -> None:
    server = launch()
    async with World(server.url) as world:
        alice = await world.account()
        for change in NONSENSE:
            sane = {name: getattr(services, name) for name in change}
            for name, value in change.items():
                setattr(services, name, value)
            answer = await alice.post("/v1/voice/conversations", {"agentId": "agent_1"})
            assert said(answer) == (502, {"error": "The voice service did not answer"}), repr(change)[:80]
            assert (await alice.get("/v1/voice/usage")).status_code == (200 if "token" in change else 502)
            for name, value in sane.items():
                setattr(services, name, value)
        assert (await begin(alice))["allowed"] is True
    assert KEY not in "".join(server.log)
    assert "Traceback" not in "".join(server.log)


async def test_an_unreachable_service_is_502(start: Start) -> None:
    server = start(ELEVENLABS_API_KEY=KEY, HAPPY_SERVER_LIGHT_ELEVENLABS_URL="http://127.0.0.1:9")
    async with World(server.url) as world:
        alice = await world.account()
        assert said(await alice.get("/v1/voice/usage")) == (502, {"error": "The voice service did not answer"})


@pytest.mark.slow
async def test_a_slow_service_times_out_without_blocking_other_requests(
    services: Services, inside: Callable[..., Awaitable[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    services.pause = 60
    monkeypatch.setattr(conversations, "DEADLINE", 4.0)
    server = await inside(elevenlabs_api_key=KEY, elevenlabs_url=services.url, revenuecat_url=services.url)
    async with World(server.url) as world:
        alice = await world.account()
        waiting = asyncio.ensure_future(alice.get("/v1/voice/usage"))
        while not services.asked:
            await asyncio.sleep(0.01)
        assert (await alice.get("/v1/account/profile")).status_code == 200
        assert not waiting.done()
        assert (await waiting).status_code == 502


async def test_without_keys_the_routes_answer_not_configured(world: World) -> None:
    alice = await world.account()
    missing = (500, {"error": "ELEVENLABS_API_KEY not configured"})
    assert said(await alice.post("/v1/voice/conversations", {"agentId": "a"})) == missing
    assert said(await alice.get("/v1/voice/usage")) == missing
    for path in ("/v1/voice/token", "/v1/voice/session"):
        assert said(await alice.post(path, {})) == (500, {"error": "not configured"})
        assert (await world.http.post(path, json={})).status_code == 401
    for body in ({}, {"agentId": 5}, {"agentId": None}):
        assert (await alice.post("/v1/voice/conversations", body)).status_code == 400


async def test_livekit_tokens(start: Start) -> None:
    async with World(start(**LIVEKIT).url) as world:
        alice, bob = await world.account(), await world.account()

        def decoded(answer: Any) -> Any:
            assert answer["url"] == "wss://live.example"
            assert jwt.get_unverified_header(answer["token"])["alg"] == "HS256"
            return jwt.decode(answer["token"], LIVEKIT["LIVEKIT_API_SECRET"], algorithms=["HS256"], issuer="lk-key")

        first = await alice.ok("POST", "/v1/voice/session", {})
        second = await alice.ok("POST", "/v1/voice/session")
        assert first.keys() == {"id", "room", "token", "url"}
        assert len({first["id"], second["id"]}) == len({first["room"], second["room"]}) == 2
        claims = decoded(first)
        assert claims["sub"] == alice.id
        assert claims["video"] == {"roomJoin": True, "room": first["room"]}
        assert claims["exp"] - claims["nbf"] == 3600

        for body in ({}, None, {"room": None}):
            own = await alice.ok("POST", "/v1/voice/token", body)
            assert decoded(own)["video"] == {"roomJoin": True, "room": own["room"]}
        again = await alice.ok("POST", "/v1/voice/token", {"room": first["room"]})
        assert decoded(again)["video"]["room"] == first["room"]

        for room in (first["room"], own["room"], "made up", ""):
            answer = await bob.post("/v1/voice/token", {"room": room})
            assert said(answer) == (404, {"error": "Voice session not found"})
        assert (await bob.ok("POST", "/v1/voice/token"))["room"] != own["room"]
        assert (await alice.post("/v1/voice/token", {"room": 5})).status_code == 400


async def test_voice_sessions_survive_a_restart_and_the_oldest_are_deleted(start: Start) -> None:
    first = start(**LIVEKIT)
    async with World(first.url) as world:
        alice = await world.account()
        execute(
            first,
            "WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 999) "
            "INSERT INTO voice_sessions SELECT ? || i, ?, 'room ' || i, i FROM n",
            alice.id, alice.id,
        )  # fmt: skip
        new = (await alice.ok("POST", "/v1/voice/session"))["room"]
    assert first.stop() == 0
    async with World(start(folder=first.folder, **LIVEKIT).url) as world:
        alice = await world.account(alice.key)
        codes = [
            (await alice.post("/v1/voice/token", {"room": room})).status_code
            for room in ("room 0", "room 1", "room 999", new)
        ]
        assert codes == [404, 200, 200, 200]


@pytest.mark.parametrize("missing", LIVEKIT)
async def test_livekit_needs_all_three_settings(start: Start, missing: str) -> None:
    server = start(**{name: value for name, value in LIVEKIT.items() if name != missing})
    async with World(server.url) as world:
        alice = await world.account()
        assert said(await alice.post("/v1/voice/session", {})) == (500, {"error": "not configured"})
