"""What only clients notice: small things in an answer without which one of them breaks."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.client import World, uid


async def test_a_token_can_be_read_with_plain_base64(world: World) -> None:
    """The web app reads the account's id out of it with `atob`, which throws at `-` and `_`."""
    for _ in range(5):
        alice = await world.account()
        _, payload, signature = alice.token.split(".")
        assert signature
        claims = json.loads(base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True))
        assert (await alice.ok("GET", "/v1/account/profile"))["id"] == claims["sub"]


@pytest.mark.parametrize("given", [{"dataEncryptionKey": ""}, {"dataEncryptionKey": None}, {}])
async def test_no_key_is_null_and_never_an_empty_text(world: World, given: dict[str, Any]) -> None:
    """Null means the older encryption; an empty text is taken for a key, and nothing can be read."""
    alice = await world.account()
    ui = await alice.socket()
    session = await alice.session(**given)
    machine = await alice.machine(uid(), **given)
    shown = [session, machine, *(await alice.ok("GET", "/v1/sessions"))["sessions"]]
    shown += await alice.ok("GET", "/v1/machines")
    shown += [body for body in await ui.updates() if body["t"] in ("new-session", "new-machine")]
    assert len(shown) == 6
    assert [part["dataEncryptionKey"] for part in shown] == [None] * 6
