"""GitHub: an account's name, picture and profile come from there (protocol.md section 10).

GET    /v1/connect/github/params      where the browser goes to sign in
GET    /v1/connect/github/callback    public: where GitHub sends it back to
POST   /v1/connect/github/webhook     public: GitHub tells something
DELETE /v1/connect/github             unlink
update update-account
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from happy_light import ids, json_codec
from happy_light.auth.tokens import Signer
from happy_light.blobs import keys as blob_keys
from happy_light.bus import Audience, Update
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.domains import account
from happy_light.domains.account import AccountUpdate
from happy_light.errors import (
    GITHUB_NOT_CONFIGURED,
    INVALID_SIGNATURE,
    INVALID_TOKEN,
    WEBHOOKS_NOT_CONFIGURED,
    ApiError,
    BadRequest,
)
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.http_client import NoAnswer
from happy_light.images import inspection
from happy_light.images.inspection import Picture
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

SCOPE: Final = "read:user,user:email,read:org,codespace"
STATE_LIFETIME: Final = 300  # s from the way to GitHub to the way back
DEADLINE: Final = 20.0  # s for everything that one callback asks of GitHub
WEBHOOK_MAX: Final = 25 * 1024 * 1024  # bytes; GitHub sends no more
WEBAPP: Final = "https://app.happy.engineering"
_REUSE_KEY: Final = "github-avatar"


# -------------------------------------------------------------------------------------------- wire
class Params(Outgoing):
    """Where the browser goes to sign in."""

    url: str


class CallbackQuery(Incoming):
    """What GitHub sends the browser back with: code and state, or an error of its own."""

    code: str | None = None
    state: str | None = None
    error: str | None = None


class Received(Outgoing):
    """Answer to a webhook."""

    received: Literal[True] = True


class _Grant(msgspec.Struct):
    """GitHub's answer to a code."""

    access_token: str | None = None
    error: str | None = None


class _User(msgspec.Struct):
    """What we read of a GitHub user; the rest is kept as it is."""

    id: int
    login: str
    name: str | None = None
    avatar_url: str | None = None


class Linked(msgspec.Struct):
    """A GitHub user as `link` takes it; `profile` is GitHub's own JSON, `token` is sealed."""

    id: str
    login: str
    name: str | None
    profile: str
    token: bytes


class _Failed(Exception):
    """The sign-in ends here; the text is the `error` that the web app gets."""


# -------------------------------------------------------------------------------------- operations
def _path(account_id: str) -> list[str]:
    """Of the key that seals the token."""
    return ["user", account_id, "github", "token"]


def make_state(signer: Signer, account_id: str) -> str:
    """The token that comes back from GitHub and says whose sign-in it is."""
    return signer.mint(account_id, exp=int(time.time()) + STATE_LIFETIME)


def account_of_state(signer: Signer, state: str) -> str | None:
    """The account id of a state that is ours and not too old."""
    claims = signer.verify(state) if len(state) < 4096 else None
    return claims["sub"] if claims is not None and "exp" in claims and isinstance(claims["sub"], str) else None


def _forget(tx: Transaction, account_id: str) -> None:
    """Takes link and username from an account, and says so."""
    tx.execute(
        "UPDATE accounts SET github_user_id = NULL, username = NULL, updated_at = ? WHERE id = ?", (tx.now, account_id)
    )
    tx.publish(Update(Audience(account_id), AccountUpdate(account_id, github=None, username=None)))


def link(tx: Transaction, account_id: str, user: Linked, picture: Picture | None, path: str, base: str) -> list[str]:
    """Links the account to a GitHub user, who loses any other link. Without a picture the old one stays.

    `path` is the picture's below the public files, `base` what its address begins with. -> the paths of
    pictures that this one replaces. Raises Refused if there is no such account.
    """
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    if row is None:
        raise ApiError(INVALID_TOKEN)
    for (other,) in tx.fetch_all(
        # A username that is another's here was theirs at GitHub once, before they gave it up.
        "SELECT id FROM accounts WHERE (github_user_id = ? OR lower(username) = lower(?)) AND id <> ?",
        (user.id, user.login, account_id),
    ):
        _forget(tx, other)
    tx.execute(
        "INSERT INTO github_users (id, profile, token, created_at, updated_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET profile = excluded.profile, token = excluded.token, "
        "updated_at = excluded.updated_at",
        (user.id, user.profile, user.token, tx.now, tx.now),
    )
    first_name, _, last_name = (user.name or "").strip().partition(" ")
    update = AccountUpdate(
        account_id, github=account.github(user.profile), username=user.login, first_name=first_name or None,
        last_name=last_name.strip() or None,
    )  # fmt: skip
    tx.execute(
        "UPDATE accounts SET github_user_id = ?, username = ?, first_name = ?, last_name = ?, updated_at = ? "
        "WHERE id = ?",
        (user.id, user.login, update.first_name, update.last_name, tx.now, account_id),
    )
    tx.execute("DELETE FROM github_users WHERE id = ? AND id <> ?", (row[0], user.id))
    replaced: list[str] = []
    if picture is not None:
        stored = json_codec.encode(
            {"path": path, "width": picture.width, "height": picture.height, "thumbhash": picture.thumbhash}
        ).decode()
        update.avatar = account.avatar(stored, base)
        replaced = _store_picture(tx, account_id, picture, path, stored)
    tx.publish(Update(Audience(account_id), update))
    return replaced


def _store_picture(tx: Transaction, account_id: str, picture: Picture, path: str, stored: str) -> list[str]:
    tx.execute("UPDATE accounts SET avatar = ? WHERE id = ?", (stored, account_id))
    older = "account_id = ? AND reuse_key = ? AND path <> ?"
    replaced = [old for (old,) in tx.fetch_all(f"SELECT path FROM uploaded_files WHERE {older}",
                                         (account_id, _REUSE_KEY, path))]  # fmt: skip
    tx.execute(f"DELETE FROM uploaded_files WHERE {older}", (account_id, _REUSE_KEY, path))
    tx.execute(
        "INSERT INTO uploaded_files (id, account_id, path, width, height, thumbhash, reuse_key, created_at, "
        "updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, path) DO UPDATE SET updated_at = excluded.updated_at",
        (ids.new_id(), account_id, path, picture.width, picture.height, picture.thumbhash, _REUSE_KEY, tx.now, tx.now),
    )
    return [old for old in replaced if blob_keys.is_public_key_of(account_id, old)]


def unlink(tx: Transaction, account_id: str) -> Success:
    """Ends the link, if there is one; the picture stays."""
    row = tx.fetch_one("SELECT github_user_id FROM accounts WHERE id = ?", (account_id,))
    if row is not None and row[0] is not None:
        _forget(tx, account_id)
        tx.execute("DELETE FROM github_users WHERE id = ?", row)
    return Success()


def exists(tx: ReadTransaction, account_id: str) -> bool:
    """Whether there is such an account."""
    return tx.fetch_one("SELECT 1 FROM accounts WHERE id = ?", (account_id,)) is not None


# ------------------------------------------------------------------------------------ to GitHub
async def _token(context: ServerContext, code: str) -> str:
    """GitHub's token for a code. Raises _Failed, NoAnswer."""
    settings = context.settings
    body = {
        "client_id": settings.github_client_id, "client_secret": settings.github_client_secret, "code": code,
    }  # fmt: skip
    url = f"{settings.github_url}/login/oauth/access_token"
    grant = (await context.http_client.request("POST", url, body=body)).json(_Grant)
    if grant.access_token is None:
        raise _Failed(grant.error[:100] if grant.error else "server_error")
    return grant.access_token


async def _user(context: ServerContext, token: str) -> tuple[_User, str]:
    """Whose token it is, and the whole profile as JSON. Raises _Failed."""
    try:
        answer = await context.http_client.request(
            "GET", f"{context.settings.github_api_url}/user", headers={"authorization": f"Bearer {token}"}
        )
        if answer.status == 200:
            return answer.json(_User), answer.body.decode()
        log.warning("GitHub answered the question for a user with status %d", answer.status)
    except (NoAnswer, UnicodeError) as error:
        log.warning("GitHub did not tell a user: %s", error)
    raise _Failed("github_user_fetch_failed")


async def _picture(context: ServerContext, url: str | None) -> Picture | None:
    """The picture at an address, if it is one; a link does not fail for it."""
    if url is None or not url.startswith(("https://", "http://")):
        return None
    try:
        answer = await context.http_client.request(
            "GET", url, headers={"accept": "image/png, image/jpeg"}, limit=inspection.BYTES_MAX
        )
    except NoAnswer as error:
        log.warning("an avatar could not be fetched: %s", error)
        return None
    return await asyncio.to_thread(inspection.read, answer.body) if answer.status == 200 else None


async def sign_in(context: ServerContext, account_id: str, code: str, base: str) -> str:
    """Links the account to whom GitHub's code stands for. -> the login. Raises _Failed, NoAnswer, Refused."""
    token = await _token(context, code)
    user, profile = await _user(context, token)
    picture = await _picture(context, user.avatar_url)
    path = ""
    if picture is not None:
        # Named by its content, since what is served there may be kept for ever.
        name = f"{hashlib.sha256(picture.data).hexdigest()[:24]}.{picture.extension}"
        path = f"public/users/{account_id}/avatars/{name}"
        await context.blobs.put(path, _one(picture.data), inspection.BYTES_MAX)
    sealed = await asyncio.to_thread(context.keys.vault.seal, _path(account_id), token)
    linked = Linked(str(user.id), user.login, user.name, profile, sealed)
    for old in await context.database.write(account_id, link, linked, picture, path, base):
        await context.blobs.delete(old)
    return user.login


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


# --------------------------------------------------------------------------------------- endpoints
def _configured(settings: Settings) -> bool:
    return None not in (settings.github_client_id, settings.github_client_secret, settings.github_redirect_url)


async def get_params(request: Request[None, None]) -> Params:
    settings = request.context.settings
    if not _configured(settings):
        raise ApiError(GITHUB_NOT_CONFIGURED)
    # On another thread: deriving its key takes 0.1 s at the first use.
    state = await asyncio.to_thread(make_state, request.context.keys.github, request.account_id)
    query = {
        "client_id": settings.github_client_id, "redirect_uri": settings.github_redirect_url, "scope": SCOPE,
        "state": state,
    }  # fmt: skip
    return Params(f"{settings.github_url}/login/oauth/authorize?{urlencode(query)}")


async def get_callback(request: Request[None, CallbackQuery]) -> Response:
    query = request.query
    if query.error:
        return _back(request, error=query.error[:100])
    if query.code is None or query.state is None:
        raise BadRequest("code and state are needed")
    try:
        account_id = await asyncio.to_thread(account_of_state, request.context.keys.github, query.state)
        if account_id is None or not await request.context.database.read(exists, account_id):
            raise _Failed("invalid_state")
        if not _configured(request.context.settings):
            raise _Failed("server_config")
        async with asyncio.timeout(DEADLINE):
            login = await sign_in(
                request.context, account_id, query.code, forwarded.server_url(request.context.settings, request.scope)
            )
    except _Failed as failed:
        log.info("a GitHub sign-in failed: %s", failed)
        return _back(request, error=str(failed))
    except (NoAnswer, TimeoutError, ApiError) as error:
        log.warning("a GitHub sign-in failed: %s %s", type(error).__name__, error)
        return _back(request, error="server_error")
    except Exception:
        log.exception("a GitHub sign-in failed")
        return _back(request, error="server_error")
    log.info("account %s is linked to GitHub user %s", account_id, login)
    return _back(request, github="connected", user=login)


def _back(request: Request[Any, Any], **query: str) -> Response:
    """Sends the browser to the web app."""
    settings = request.context.settings
    base = settings.webapp_url
    if base is None and settings.ui_dir is not None:
        base = forwarded.server_url(settings, request.scope) + settings.ui_prefix.rstrip("/")
    return RedirectResponse(f"{base or WEBAPP}/?{urlencode(query)}", 302)


async def post_webhook(request: Request[None, None]) -> Received:
    signature = request.header(b"x-hub-signature-256")
    if signature is None or request.header(b"x-github-event") is None:
        raise BadRequest("The headers x-hub-signature-256 and x-github-event are needed")
    secret = request.context.settings.github_webhook_secret
    if secret is None:
        raise ApiError(WEBHOOKS_NOT_CONFIGURED)
    digest = hmac.new(secret.encode(), digestmod="sha256")
    async for piece in request.stream(WEBHOOK_MAX):
        digest.update(piece)
    if not hmac.compare_digest(f"sha256={digest.hexdigest()}".encode(), signature.encode()):
        raise ApiError(INVALID_SIGNATURE)
    return Received()


async def delete(request: Request[None, None]) -> Success:
    return await request.context.database.write(request.account_id, unlink)


routes = [
    Route("GET", "/v1/connect/github/params", get_params, answer=Params, errors=[GITHUB_NOT_CONFIGURED]),
    Route(
        "GET", "/v1/connect/github/callback", get_callback, query=CallbackQuery, answer=None,
        other_responses={302: None},
        public=True,
    ),
    Route(
        "POST", "/v1/connect/github/webhook", post_webhook, answer=Received, public=True, streams=True,
        errors=[INVALID_SIGNATURE, WEBHOOKS_NOT_CONFIGURED],
    ),
    Route("DELETE", "/v1/connect/github", delete),
]  # fmt: skip
