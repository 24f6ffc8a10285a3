"""The link between an account and a GitHub user: name, profile and avatar that the account takes from there."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from happy_light import ids, json_codec, threads
from happy_light.blobs import keys as blob_keys
from happy_light.bus import Audience, Update
from happy_light.context import ServerContext
from happy_light.domains import account
from happy_light.domains.account import AccountUpdate
from happy_light.errors import INVALID_TOKEN, ApiError
from happy_light.images import inspection
from happy_light.images.inspection import Picture
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Success

_REUSE_KEY: Final = "github-avatar"
"""What marks an account's avatar from GitHub among its uploaded files."""


class GithubUser(msgspec.Struct):
    """A GitHub user to link: `profile` is GitHub's own JSON, `token` is encrypted."""

    id: str
    login: str
    name: str | None
    profile: str
    token: bytes


class StoredAvatar(msgspec.Struct):
    """An avatar that is stored under the public files at `path`."""

    picture: Picture
    path: str


# -------------------------------------------------------------------------------------- operations
def account_exists(tx: ReadTransaction, account_id: str) -> bool:
    """Whether there is such an account."""
    return tx.fetch_one("SELECT 1 FROM accounts WHERE id = ?", (account_id,)) is not None


def find_others(tx: ReadTransaction, account_id: str, user: GithubUser) -> list[str]:
    """Return other accounts that are linked to the user, or whose username GitHub has given to the user since."""
    rows = tx.fetch_all(
        "SELECT id FROM accounts WHERE (github_user_id = ? OR lower(username) = lower(?)) AND id <> ?",
        (user.id, user.login, account_id),
    )
    return [row[0] for row in rows]


def link(tx: Transaction, account_id: str, user: GithubUser, avatar: StoredAvatar | None, base: str) -> list[str]:
    """Link the account to a GitHub user and announce what changed; without an avatar the account keeps its own.

    Accounts of `find_others` are unlinked. The avatar's URL begins with `base` (files.base_url). Return the paths of
    avatars that this one replaces. Raises ApiError INVALID_TOKEN if there is no such account.
    """
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    if row is None:
        raise ApiError(INVALID_TOKEN)
    for other_id in find_others(tx, account_id, user):
        _clear(tx, other_id)
    tx.execute(
        "INSERT INTO github_users (id, profile, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET profile = excluded.profile, token = excluded.token, "
        "updated_at = excluded.updated_at",
        (user.id, user.profile, user.token, tx.now, tx.now),
    )
    first_name, _, last_name = (user.name or "").strip().partition(" ")
    update = AccountUpdate(
        account_id, github=account.decode_github_profile(user.profile), username=user.login,
        first_name=first_name or None, last_name=last_name.strip() or None,
    )  # fmt: skip
    tx.execute(
        "UPDATE accounts SET github_user_id = ?, username = ?, first_name = ?, last_name = ?, updated_at = ? "
        "WHERE id = ?",
        (user.id, user.login, update.first_name, update.last_name, tx.now, account_id),
    )
    tx.execute("DELETE FROM github_users WHERE id = ? AND id <> ?", (row[0], user.id))
    replaced: list[str] = []
    if avatar is not None:
        stored, replaced = _store_avatar(tx, account_id, avatar)
        update.avatar = account.decode_avatar(stored, base)
    tx.publish(Update(Audience(account_id), update))
    return replaced


def unlink(tx: Transaction, account_id: str) -> Success:
    """Remove link and username and announce that; the avatar stays. Do nothing if the account is not linked."""
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    if row is not None and row[0] is not None:
        _clear(tx, account_id)
        tx.execute("DELETE FROM github_users WHERE id = ?", row)
    return Success()


def _clear(tx: Transaction, account_id: str) -> None:
    tx.execute(
        "UPDATE accounts SET github_user_id = NULL, username = NULL, updated_at = ? WHERE id = ?", (tx.now, account_id)
    )
    tx.publish(Update(Audience(account_id), AccountUpdate(account_id, github=None, username=None)))


def _store_avatar(tx: Transaction, account_id: str, avatar: StoredAvatar) -> tuple[str, list[str]]:
    """Return the JSON of the column `avatar`, and the paths of the avatars from GitHub that this one replaces."""
    picture, path = avatar.picture, avatar.path
    stored = json_codec.encode(
        {"path": path, "width": picture.width, "height": picture.height, "thumbhash": picture.thumbhash}
    ).decode()
    tx.execute("UPDATE accounts SET avatar = ? WHERE id = ?", (stored, account_id))
    older = (account_id, _REUSE_KEY, path)
    replaced = [
        row[0]
        for row in tx.fetch_all(
            "SELECT path FROM uploaded_files WHERE account_id = ? AND reuse_key = ? AND path <> ?", older
        )
    ]
    tx.execute("DELETE FROM uploaded_files WHERE account_id = ? AND reuse_key = ? AND path <> ?", older)
    tx.execute(
        "INSERT INTO uploaded_files (id, account_id, path, width, height, thumbhash, reuse_key, created_at, "
        "updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, path) DO UPDATE SET updated_at = excluded.updated_at",
        (ids.new_id(), account_id, path, picture.width, picture.height, picture.thumbhash, _REUSE_KEY, tx.now, tx.now),
    )
    return stored, [old for old in replaced if blob_keys.is_public_key_of(account_id, old)]


# ------------------------------------------------------------------------------------------- files
async def store_and_link(
    context: ServerContext, account_id: str, user: GithubUser, picture: Picture | None, base: str
) -> None:
    """Store the avatar as a public file, link the account, and remove the files of avatars that it replaces.

    Raises what `link` raises, and ServiceUnavailable.
    """
    avatar = None
    if picture is not None:
        # Named after its content, because clients cache public files for ever.
        name = f"{hashlib.sha256(picture.data).hexdigest()[:24]}.{picture.extension}"
        avatar = StoredAvatar(picture, f"public/users/{account_id}/avatars/{name}")
        await context.blobs.put(avatar.path, _single(picture.data), inspection.BYTES_MAX)
    others = await context.database.read(find_others, account_id, user)
    for path in await context.database.write_for((account_id, *others), link, account_id, user, avatar, base):
        await context.blobs.delete(path)


async def encrypt_token(context: ServerContext, account_id: str, token: str) -> bytes:
    """Return GitHub's token encrypted with a key of the account (docs/protocol.md, section 16)."""
    return await threads.run(context.keys.vault.seal, ["user", account_id, "github", "token"], token)


async def _single(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
