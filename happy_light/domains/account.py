"""The account itself (protocol.md section 8).

GET  /v1/account/profile
GET  /v1/account/settings
POST /v1/account/settings
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from happy_light import clock
from happy_light.bus import Audience, Update
from happy_light.domains import files
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class Avatar(Outgoing):
    """A picture under /files."""

    path: str
    url: str
    width: int | None
    height: int | None
    thumbhash: str | None


class Profile(Outgoing):
    """GET /v1/account/profile; timestamp in ms."""

    id: str
    timestamp: int
    first_name: str | None
    last_name: str | None
    username: str | None
    avatar: Avatar | None
    github: dict[str, Any] | None
    connected_services: list[str]


class AccountSettings(Outgoing):
    """GET /v1/account/settings"""

    settings: str | None
    settings_version: int


class NewSettings(Incoming):
    """POST /v1/account/settings"""

    settings: str | None
    expected_version: Version


class Stored(Outgoing):
    """The new version."""

    version: int
    success: Literal[True] = True


class Stale(Outgoing):
    """Nothing was stored; what is current."""

    current_version: int
    current_settings: str | None
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class AccountUpdate(Outgoing, tag_field="t", tag="update-account"):
    """Update to user-scoped sockets: only what changed, since a present null clears it in the app."""

    id: str
    settings: Versioned | msgspec.UnsetType = msgspec.UNSET
    github: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    username: str | msgspec.UnsetType | None = msgspec.UNSET
    first_name: str | msgspec.UnsetType | None = msgspec.UNSET
    last_name: str | msgspec.UnsetType | None = msgspec.UNSET
    avatar: Avatar | msgspec.UnsetType | None = msgspec.UNSET


# -------------------------------------------------------------------------------------- operations
def avatar(stored: str | None, base: str) -> Avatar | None:
    """The picture as the database has it (JSON), with its address; `base` as origin.of has it."""
    if stored is None:
        return None
    known = msgspec.json.decode(stored)
    path = known["path"]
    return Avatar(path, files.url(base, path), known.get("width"), known.get("height"), known.get("thumbhash"))


def github(stored: str | None) -> dict[str, Any] | None:
    """The GitHub profile as the database has it (JSON), for clients: they need a name, and no null as email."""
    if stored is None:
        return None
    known: dict[str, Any] = msgspec.json.decode(stored)
    if known.get("email", "") is None:
        del known["email"]
    return {**known, "name": known.get("name") or known.get("login") or ""}


def profile(tx: ReadTransaction, account_id: str, base: str) -> Profile:
    """What the account's owner sees of it; `base` is what the avatar's address begins with."""
    row = tx.fetch_one(
        "SELECT first_name, last_name, username, avatar, github_users.profile FROM accounts "
        "LEFT JOIN github_users ON github_users.id = github_user_id WHERE accounts.id = ?",
        (account_id,),
    )
    assert row is not None  # the token was good, so the account exists
    first_name, last_name, username, picture, github_user = row
    vendors = [
        vendor
        for (vendor,) in tx.fetch_all(
            "SELECT vendor FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,)
        )
    ]
    return Profile(
        account_id, clock.now_ms(), first_name, last_name, username, avatar(picture, base),
        github(github_user), vendors,
    )  # fmt: skip


def settings(tx: ReadTransaction, account_id: str) -> AccountSettings:
    """The settings, as the client encrypted them."""
    row = tx.fetch_one("SELECT settings, settings_version FROM accounts WHERE id = ?", (account_id,))
    assert row is not None
    return AccountSettings(*row)


def set_settings(tx: Transaction, account_id: str, new: NewSettings) -> Stored | Stale:
    """Stores settings if the expected version is the current one."""
    current = settings(tx, account_id)
    if current.settings_version != new.expected_version:
        return Stale(current.settings_version, current.settings)
    version = new.expected_version + 1
    tx.execute(
        "UPDATE accounts SET settings = ?, settings_version = ?, updated_at = ? WHERE id = ?",
        (new.settings, version, tx.now, account_id),
    )
    tx.publish(Update(Audience(account_id), AccountUpdate(account_id, settings=Versioned(new.settings, version))))
    return Stored(version)


# --------------------------------------------------------------------------------------- endpoints
async def get_profile(request: Request[None, None]) -> Profile:
    return await request.context.database.read(
        profile, request.account_id, forwarded.server_url(request.context.settings, request.scope)
    )


async def get_settings(request: Request[None, None]) -> AccountSettings:
    return await request.context.database.read(settings, request.account_id)


async def post_settings(request: Request[NewSettings, None]) -> Stored | Stale:
    return await request.context.database.write(request.account_id, set_settings, request.body)


routes = [
    Route("GET", "/v1/account/profile", get_profile, answer=Profile),
    Route("GET", "/v1/account/settings", get_settings, answer=AccountSettings),
    Route("POST", "/v1/account/settings", post_settings, body=NewSettings, answer=Stored | Stale),
]
