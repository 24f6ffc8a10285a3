"""The account itself (protocol.md section 8).

GET  /v1/account/profile
"""

from __future__ import annotations

from typing import Any

import msgspec

from happy_light import wire
from happy_light.store import Rx
from happy_light.web import Call, Route
from happy_light.wire import Out


# -------------------------------------------------------------------------------------------- wire
class Avatar(Out):
    """A picture under /files."""

    path: str
    url: str
    width: int | None
    height: int | None
    thumbhash: str | None


class Profile(Out):
    """GET /v1/account/profile; timestamp in ms."""

    id: str
    timestamp: int
    first_name: str | None
    last_name: str | None
    username: str | None
    avatar: Avatar | None
    github: dict[str, Any] | None
    connected_services: list[str]


# -------------------------------------------------------------------------------------- operations
def profile(rx: Rx, account_id: str) -> Profile:
    """What the account's owner sees of it."""
    row = rx.one(
        "SELECT first_name, last_name, username, github_users.profile FROM accounts "
        "LEFT JOIN github_users ON github_users.id = github_user_id WHERE accounts.id = ?",
        (account_id,),
    )
    assert row is not None  # the token was good, so the account exists
    first_name, last_name, username, github = row
    vendors = [
        vendor
        for (vendor,) in rx.all("SELECT vendor FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,))
    ]
    return Profile(
        account_id, wire.now_ms(), first_name, last_name, username, None,
        msgspec.json.decode(github) if github else None, vendors,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- endpoints
async def get_profile(call: Call[None, None]) -> Profile:
    return await call.house.store.read(profile, call.account_id)


routes = [Route("GET", "/v1/account/profile", get_profile, answer=Profile)]
