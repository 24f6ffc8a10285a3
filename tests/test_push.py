"""Push: tokens, receivers, outcomes and errors of Expo."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from happy_light.domains.push import sending
from happy_light.server import Server
from tests.client import Account, World
from tests.conftest import Start
from tests.vendor_servers import VendorServer

EVENT = {"kind": "done", "title": "It is ready", "body": "b ü"}
OK = {"status": "ok", "id": "x"}
GONE = {"status": "error", "message": "no", "details": {"error": "DeviceNotRegistered", "fault": "developer"}}
SLOW_DOWN = {"status": "error", "message": "no", "details": {"error": "MessageRateExceeded"}}

Inside = Callable[..., Awaitable[Server]]


def tickets(of: Callable[[str], Any]) -> Callable[[web.Request, Any], Any]:
    """Return an Expo that gives a ticket for each message, made from its token."""

    async def answer(request: web.Request, body: Any) -> web.Response:
        return web.json_response({"data": [of(message["to"]) for message in body]})

    return answer


async def names(account: Account) -> list[str]:
    return [token["token"] for token in (await account.ok("GET", "/v1/push-tokens"))["tokens"]]


async def with_tokens(world: World, *tokens: str) -> tuple[Account, str]:
    """Return a new account with these tokens, and a session of it."""
    alice = await world.account()
    for token in tokens:
        await alice.ok("POST", "/v1/push-tokens", {"token": token})
    return alice, f"/v1/sessions/{(await alice.session())['id']}/push-event"


async def test_tokens_are_stored_once_and_listed_newest_first_per_account(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    first, second = f"ExponentPushToken[{os.urandom(4).hex()}]", "x" * 1024
    assert await names(alice) == []
    for token in (first, second, first):
        assert await alice.ok("POST", "/v1/push-tokens", {"token": token}) == {"success": True}
        await asyncio.sleep(0.002)
    kept = (await alice.ok("GET", "/v1/push-tokens"))["tokens"]
    assert [token["token"] for token in kept] == [second, first]
    assert all(token.keys() == {"id", "token", "createdAt", "updatedAt"} for token in kept)
    await bob.ok("POST", "/v1/push-tokens", {"token": second})
    await bob.ok("DELETE", f"/v1/push-tokens/{quote(first, safe='')}")
    for _ in range(2):
        assert await alice.ok("DELETE", f"/v1/push-tokens/{second}") == {"success": True}
    assert (await names(alice), await names(bob)) == ([first], [second])
    await alice.ok("DELETE", f"/v1/push-tokens/{quote(first, safe='')}")
    assert await names(alice) == []
    for body in ({}, {"token": 5}, {"token": None}):
        assert (await alice.post("/v1/push-tokens", body)).status_code == 400


@pytest.mark.parametrize(
    "body",
    [{}, {**EVENT, "kind": "x"}, {**EVENT, "title": ""}, {**EVENT, "title": "x" * 201}, {**EVENT, "body": ""},
     {**EVENT, "body": "x" * 501}, {**EVENT, "data": "x"}, {**EVENT, "data": [1]}, {**EVENT, "title": 5}],
)  # fmt: skip
async def test_an_invalid_event_is_rejected_and_sent_to_nobody(world: World, body: object) -> None:
    alice, path = await with_tokens(world)
    ui = await alice.socket()
    answer = await alice.post(path, body)
    assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
    assert await ui.heard() == []


async def test_another_account_cannot_push(world: World) -> None:
    (_, path), bob = await with_tokens(world), await world.account()
    answer = await bob.post(path, EVENT)
    assert (answer.status_code, answer.json()) == (404, {"error": "Session not found"})


async def test_an_event_reaches_the_sessions_sockets_and_phones(start: Start) -> None:
    async with VendorServer(tickets(lambda _: OK)) as expo:
        server = start(HAPPY_SERVER_LIGHT_EXPO_URL=f"{expo.url}/push/send", EXPO_ACCESS_TOKEN="expo-secret")
        async with World(server.url) as world:
            alice, path = await with_tokens(world, "phone-token-1", "phone-token-2")
            session = path.split("/")[3]
            ui, mine = await alice.socket(), await alice.socket(session=session)
            other = await alice.socket(session=(await alice.session())["id"])
            await ui.heard()

            data = {"url": "/x", "kind": "mine", "deep": [1, None]}
            assert await alice.ok("POST", path, {**EVENT, "data": data}) == {
                "success": True, "result": "sent", "tokens": 2,
            }  # fmt: skip

            (event,) = await ui.heard()
            assert await mine.heard() == [event]
            assert await other.heard() == []
            timestamp = event[1].pop("timestamp")
            assert isinstance(timestamp, int)
            assert event == ("ephemeral", {"type": "session-event", "sessionId": session, **EVENT})

            ((request, messages),) = expo.got
            assert (request.method, request.path) == ("POST", "/push/send")
            assert request.headers["authorization"] == "Bearer expo-secret"
            assert messages == [
                {"to": token, "title": EVENT["title"], "body": EVENT["body"], "sound": "default",
                 "channelId": "messages", "data": {"sessionId": session, **data, "kind": "done"}}
                for token in ("phone-token-2", "phone-token-1")
            ]  # fmt: skip
        assert server.stop() == 0
        log = "".join(server.log)
        assert f"push of session {session} of account {alice.id}: result sent, tokens 2" in log
        for secret in ("phone-token", "expo-secret", EVENT["title"], alice.token):
            assert secret not in log


async def test_a_push_is_suppressed_while_an_app_is_in_the_foreground(start: Start) -> None:
    async with (
        VendorServer(tickets(lambda _: OK)) as expo,
        World(start(HAPPY_SERVER_LIGHT_EXPO_URL=expo.url).url) as world,
    ):
        (alice, path), bob = await with_tokens(world, "phone"), await world.account()
        await bob.socket(appState="active")
        await alice.socket(session=path.split("/")[3], appState="active")
        ui = await alice.socket(appState="active")
        suppressed = {"success": True, "result": "suppressed", "reason": "active-ui-client"}
        assert await alice.ok("POST", path, EVENT) == suppressed
        assert expo.got == []
        await ui.emit("app-state", {"state": "background"})
        assert [name for name, _ in await ui.heard()] == ["ephemeral"]
        assert (await alice.ok("POST", path, EVENT))["result"] == "sent"
        assert len(expo.got) == 1


async def test_tokens_that_expo_no_longer_knows_are_deleted(start: Start) -> None:
    answers = {"gone": GONE, "busy": SLOW_DOWN, "fine": OK}
    async with VendorServer(tickets(lambda token: answers[token])) as expo:
        server = start(HAPPY_SERVER_LIGHT_EXPO_URL=expo.url)
        async with World(server.url) as world:
            alice, path = await with_tokens(world, "gone", "fine")
            bob, _ = await with_tokens(world, "gone")
            partial = {
                "success": True, "result": "partial", "tokens": 2, "delivered": 1, "reason": "DeviceNotRegistered",
            }  # fmt: skip
            assert await alice.ok("POST", path, EVENT) == partial
            assert await names(alice) == ["fine"]
            assert await names(bob) == ["gone"]
            assert (await alice.ok("POST", path, EVENT))["result"] == "sent"

            carol, path = await with_tokens(world, "busy")
            failed = {"success": True, "result": "failed", "reason": "MessageRateExceeded"}
            assert await carol.ok("POST", path, EVENT) == failed
            assert await names(carol) == ["busy"]
            dave, path = await with_tokens(world, "gone")
            assert (await dave.ok("POST", path, EVENT))["result"] == "failed"
            assert await dave.ok("POST", path, EVENT) == {"success": True, "result": "no_tokens"}


async def test_errors_of_expo_are_the_reason(start: Start) -> None:
    row: tuple[int, str, str]

    async def answer(request: web.Request, body: Any) -> web.Response:
        status, text, _ = row
        return web.Response(status=status, text=text, headers={"location": "/elsewhere"} if status == 302 else {})

    async with VendorServer(answer) as expo, World(start(HAPPY_SERVER_LIGHT_EXPO_URL=expo.url).url) as world:
        alice, path = await with_tokens(world, "phone")
        for row in (
            (500, "oops", "expo-status-500"),
            (429, "{}", "expo-status-429"),
            (302, "", "expo-status-302"),
            (200, "<html>", "expo-unreadable"),
            (200, "[]", "expo-unreadable"),
            (200, '{"data":{}}', "expo-unreadable"),
            (200, "{}", "no-ticket"),
            (200, '{"errors":[{"code":"VALIDATION_ERROR","message":"x"}]}', "VALIDATION_ERROR"),
            (200, '{"data":[{"status":"error"}]}', "expo-error"),
            (200, "x" * 2_000_000, "expo-too-large"),
        ):
            expo.got.clear()
            assert await alice.ok("POST", path, EVENT) == {"success": True, "result": "failed", "reason": row[2]}
            assert await names(alice) == ["phone"]
            assert len(expo.got) == 1


async def test_an_unreachable_expo_is_the_reason(start: Start) -> None:
    async def hang_up(request: web.Request, body: Any) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with VendorServer(hang_up) as expo, World(start(HAPPY_SERVER_LIGHT_EXPO_URL=expo.url).url) as world:
        alice, path = await with_tokens(world, "phone")
        failed = {"success": True, "result": "failed", "reason": "expo-unreachable"}
        assert await alice.ok("POST", path, EVENT) == failed
        await expo.__aexit__(None, None, None)
        assert await alice.ok("POST", path, EVENT) == failed
        assert await names(alice) == ["phone"]


@pytest.mark.slow
async def test_batches_of_a_hundred_under_one_deadline(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "DEADLINE", 3.0)

    async def answer(request: web.Request, body: Any) -> web.Response:
        if body[0]["to"] == "phone-149":  # the second of three
            await asyncio.sleep(60)
        await asyncio.sleep(0.1)
        return web.json_response({"data": [GONE if message["to"] == "phone-3" else OK for message in body]})

    async with VendorServer(answer) as expo, World((await inside(expo_url=expo.url)).url) as world:
        alice, path = await with_tokens(world, *[f"phone-{number}" for number in range(250)])
        assert await alice.ok("POST", path, EVENT) == {
            "success": True, "result": "partial", "tokens": 250, "delivered": 149, "reason": "timeout",
        }  # fmt: skip
        assert sorted(len(body) for _, body in expo.got) == [50, 100, 100]
        assert len({message["to"] for _, body in expo.got for message in body}) == 250
        assert "phone-3" not in await names(alice)
        assert len(await names(alice)) == 249


@pytest.mark.slow
async def test_the_number_of_tokens_is_bounded(world: World) -> None:
    alice, _ = await with_tokens(world, *[str(number) for number in range(503)])
    assert await names(alice) == [str(number) for number in range(502, 2, -1)]


async def test_push_can_be_disabled_by_a_setting(start: Start) -> None:
    async with VendorServer(tickets(lambda _: OK)) as expo:
        server = start(HAPPY_SERVER_LIGHT_EXPO_URL=expo.url, HAPPY_SERVER_LIGHT_PUSH="false")
        async with World(server.url) as world:
            alice, path = await with_tokens(world, "phone")
            ui = await alice.socket()
            failed = {"success": True, "result": "failed", "reason": "push-disabled"}
            assert await alice.ok("POST", path, EVENT) == failed
            assert [data["type"] for _, data in await ui.heard("ephemeral")] == ["session-event"]
            assert expo.got == []


async def test_data_that_makes_a_message_too_large_for_expo_is_left_out(start: Start) -> None:
    async with VendorServer(tickets(lambda _: OK)) as expo:
        server = start(HAPPY_SERVER_LIGHT_EXPO_URL=f"{expo.url}/push/send")
        async with World(server.url) as world:
            alice, path = await with_tokens(world, "phone-token-1")
            session = path.split("/")[3]
            for size, kept in ((3_000, True), (4_000, False), (1_000_000, False)):
                expo.got.clear()
                data = {"x": "y" * size}
                assert (await alice.ok("POST", path, {**EVENT, "data": data}))["result"] == "sent"
                ((_, (message,)),) = expo.got
                assert message["data"] == {"sessionId": session, **(data if kept else {}), "kind": "done"}
            # Control characters take six bytes each.
            answer = await alice.ok("POST", path, {**EVENT, "title": "\x01" * 200, "body": "\x01" * 500})
            assert answer == {"success": True, "result": "failed", "reason": "too-large"}
