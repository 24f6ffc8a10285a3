"""The account: profile and settings (docs/protocol.md, section 8).

GET  /v1/account/profile    get the profile
GET  /v1/account/settings   get the settings and their version
POST /v1/account/settings   replace the settings, if the expected version is the current one
update update-account
"""

from __future__ import annotations

from typing import Any

import msgspec

from happy_light import clock
from happy_light.bus import Audience, Update
from happy_light.domains import files
from happy_light.domains.versioned import CompareAndSet, Stored, VersionMismatch, Write
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Version, Versioned


# -------------------------------------------------------------------------------------------- wire
class Avatar(Outgoing):
    """A public image; width and height in pixels, thumbhash in base64."""

    path: str
    url: str
    width: int | None
    height: int | None
    thumbhash: str | None


class Profile(Outgoing):
    """The profile of the caller's account; timestamp is the time of the answer in ms."""

    id: str
    timestamp: int
    first_name: str | None
    last_name: str | None
    username: str | None
    avatar: Avatar | None
    github: dict[str, Any] | None
    connected_services: list[str]


class AccountSettings(Outgoing):
    """The settings as the client encrypted them, null if none were stored, and their version."""

    settings: str | None
    settings_version: int


class NewSettings(Incoming):
    """The body of POST /v1/account/settings."""

    settings: str | None
    expected_version: Version


class SettingsMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current settings and their version."""

    current_version: int
    current_settings: str | None


class AccountUpdate(Outgoing, tag_field="t", tag="update-account"):
    """Sent to user-scoped sockets: what changed of the account. A field that is null was cleared."""

    id: str
    settings: Versioned | msgspec.UnsetType = msgspec.UNSET
    github: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    username: str | msgspec.UnsetType | None = msgspec.UNSET
    first_name: str | msgspec.UnsetType | None = msgspec.UNSET
    last_name: str | msgspec.UnsetType | None = msgspec.UNSET
    avatar: Avatar | msgspec.UnsetType | None = msgspec.UNSET


# -------------------------------------------------------------------------------------- operations
def decode_avatar(stored: str | None, base: str) -> Avatar | None:
    """Return the avatar of a column `avatar` (JSON or None); its URL begins with `base` (files.base_url)."""
    if stored is None:
        return None
    fields = msgspec.json.decode(stored)
    path = fields["path"]
    return Avatar(path, files.url(base, path), fields.get("width"), fields.get("height"), fields.get("thumbhash"))


def decode_github_profile(stored: str | None) -> dict[str, Any] | None:
    """Return the GitHub profile of a column `profile` (JSON or None) as clients accept it.

    They require a name and reject an email that is null: the name falls back to the login, the email is left out.
    """
    if stored is None:
        return None
    profile: dict[str, Any] = msgspec.json.decode(stored)
    if profile.get("email", "") is None:
        del profile["email"]
    return {**profile, "name": profile.get("name") or profile.get("login") or ""}


def read_profile(tx: ReadTransaction, account_id: str, base: str) -> Profile:
    """Return the profile of an existing account; the avatar's URL begins with `base` (files.base_url)."""
    row = tx.fetch_one(
        "SELECT first_name, last_name, username, avatar, github_users.profile FROM accounts "
        "LEFT JOIN github_users ON github_users.id = github_user_id WHERE accounts.id = ?",
        (account_id,),
    )
    assert row is not None  # the token was good, so the account exists
    first_name, last_name, username, avatar, github_profile = row
    vendors = [
        vendor
        for (vendor,) in tx.fetch_all(
            "SELECT vendor FROM vendor_tokens WHERE account_id = ? ORDER BY vendor", (account_id,)
        )
    ]
    return Profile(
        account_id, clock.now_ms(), first_name, last_name, username, decode_avatar(avatar, base),
        decode_github_profile(github_profile), vendors,
    )  # fmt: skip


def read_settings(tx: ReadTransaction, account_id: str) -> AccountSettings:
    """Return the settings of an existing account and their version."""
    row = tx.fetch_one("SELECT settings, settings_version FROM accounts WHERE id = ?", (account_id,))
    assert row is not None  # the token was good, so the account exists
    return AccountSettings(*row)


def update_settings(tx: Transaction, account_id: str, new: NewSettings) -> Stored | SettingsMismatch:
    """Store and announce the settings if the expected version is the current one."""
    current = read_settings(tx, account_id)
    write = Write(new.settings, new.expected_version)
    change = CompareAndSet(current.settings, current.settings_version, write)
    if change.is_stale:
        return SettingsMismatch(current_version=change.current_version, current_settings=change.current_value)
    tx.execute(
        "UPDATE accounts SET settings = ?, settings_version = ?, updated_at = ? WHERE id = ?",
        (change.value, change.version, tx.now, account_id),
    )
    settings = Versioned(change.value, change.version)
    tx.publish(Update(Audience(account_id), AccountUpdate(account_id, settings=settings)))
    return Stored(change.version)


# --------------------------------------------------------------------------------------- endpoints
async def get_profile(request: Request[None, None]) -> Profile:
    """Return the profile of the caller's account."""
    return await request.context.database.read(read_profile, request.account_id, files.base_url(request))


async def get_settings(request: Request[None, None]) -> AccountSettings:
    """Return the settings of the caller's account and their version."""
    return await request.context.database.read(read_settings, request.account_id)


async def post_settings(request: Request[NewSettings, None]) -> Stored | SettingsMismatch:
    """Replace the settings if the expected version is the current one, else return the current ones."""
    return await request.context.database.write(request.account_id, update_settings, request.body)


routes = [
    Route("GET", "/v1/account/profile", get_profile, answer=Profile, conditional=True, timed=True),
    Route("GET", "/v1/account/settings", get_settings, answer=AccountSettings, conditional=True),
    Route("POST", "/v1/account/settings", post_settings, body=NewSettings, answer=Stored | SettingsMismatch),
]
