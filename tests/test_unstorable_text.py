"""Text that PostgreSQL cannot store, and keys that its indexes cannot hold: refused there, stored in SQLite."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

import pytest

from tests import databases
from tests.client import Account, World, b64, uid

NUL = "a\0b"
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=8_000))  # does not compress to what an index holds

Make = Callable[[dict[str, str], str], tuple[str, str, Any]]

PART = b64("x")
HTTP: dict[str, Make] = {
    "tag": lambda ids, text: ("POST", "/v1/sessions", {"tag": text, "metadata": "m"}),
    "localId": lambda ids, text: (
        "POST", f"/v3/sessions/{ids['session']}/messages", {"messages": [{"content": "c", "localId": text}]}
    ),
    "machine": lambda ids, text: ("POST", "/v1/machines", {"id": text, "metadata": "m"}),
    "key": lambda ids, text: ("POST", "/v1/kv", {"mutations": [{"key": text, "value": PART, "version": -1}]}),
    "push token": lambda ids, text: ("POST", "/v1/push-tokens", {"token": text}),
    "externalId": lambda ids, text: ("POST", "/v1/projects", {"externalId": text[:500], "metadata": "m"}),
}  # fmt: skip
ONLY_NUL: dict[str, Make] = {
    "content": lambda ids, text: (
        "POST", f"/v3/sessions/{ids['session']}/messages", {"messages": [{"content": text, "localId": uid()}]}
    ),
    "metadata": lambda ids, text: ("POST", "/v1/sessions", {"tag": uid(), "metadata": text}),
    "settings": lambda ids, text: ("POST", "/v1/account/settings", {"settings": text, "expectedVersion": 0}),
    "daemonState": lambda ids, text: (
        "POST", f"/v1/machines/{ids['machine']}/state", {"daemonState": text, "expectedVersion": 0}
    ),
}  # fmt: skip
EVENTS: dict[str, Callable[[dict[str, str], str], Any]] = {
    "message": lambda ids, text: {"sid": ids["session"], "message": "c", "localId": text},
    "usage-report": lambda ids, text: {
        "key": text, "sessionId": ids["session"], "tokens": {"total": 1}, "cost": {"total": 1}
    },
    "artifact-read": lambda ids, text: {"artifactId": text},
}  # fmt: skip


async def made(alice: Account) -> dict[str, str]:
    return {"session": (await alice.session())["id"], "machine": (await alice.machine())["id"]}


async def check(alice: Account, request: tuple[str, str, Any], refused: bool) -> None:
    """Send a request twice, and look whether it is stored and announced, or neither."""
    ui = await alice.socket()
    await ui.heard()
    for _ in range(2):
        answer = await alice.request(*request)
        if refused:
            assert answer.status_code == 400, answer.text
            assert answer.json()["statusCode"] == 400 and answer.json()["message"].startswith(("Text", "A value"))
            assert await ui.heard() == []
        else:
            assert answer.status_code in (200, 409), answer.text
    await alice.session()
    assert [body["t"] for body in await ui.updates()][-1] == "new-session", "the next write is stored as ever"


@pytest.mark.parametrize("name", [*HTTP, *ONLY_NUL])
async def test_nul_in_a_request(world: World, name: str) -> None:
    alice = await world.account()
    make = {**HTTP, **ONLY_NUL}[name]
    await check(alice, make(await made(alice), NUL), not databases.storable([NUL]))


@pytest.mark.parametrize("name", HTTP)
async def test_a_long_key_in_a_request(world: World, name: str) -> None:
    alice = await world.account()
    refused = databases.Engine.databases is not None and name != "externalId"  # which is short enough on the wire
    await check(alice, HTTP[name](await made(alice), LONG), refused)


@pytest.mark.parametrize("text", [NUL, LONG], ids=["nul", "long"])
@pytest.mark.parametrize("event", EVENTS)
async def test_unstorable_text_in_an_event(world: World, event: str, text: str) -> None:
    alice = await world.account()
    ids = await made(alice)
    socket = await alice.socket(session=ids["session"])
    ack = await socket.call(event, EVENTS[event](ids, text))
    if databases.Engine.databases is not None and not (event == "artifact-read" and text == LONG):
        said = ack.get("error") or ack.get("message")
        assert said.startswith(("Text cannot contain", "A value is too long")), ack
    assert (await socket.call("message", {"sid": ids["session"], "message": "c", "localId": uid()}))["ok"]


async def test_looking_for_what_cannot_be_stored_finds_nothing(world: World) -> None:
    alice = await world.account()
    for path in (f"/v1/kv/{LONG}", f"/v1/machines/{LONG}", f"/v1/artifacts/{LONG}"):
        assert (await alice.get(path)).status_code in (400, 404), path
    for path in (
        "/v1/kv/a%00b",
        "/v1/machines/a%00b",
        "/v1/artifacts/a%00b",
        "/v1/user/a%00b",
        "/v1/user/search?query=a%00",
    ):
        assert (await alice.get(path)).status_code in (200, 400, 404), path
