"""Sign-in at GitHub (OAuth), which links an account."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from starlette.responses import RedirectResponse, Response

from happy_light import threads
from happy_light.auth.tokens import Signer
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.domains import files
from happy_light.domains.github.link import GithubUser, account_exists, encrypt_token, store_and_link, unlink
from happy_light.errors import GITHUB_NOT_CONFIGURED, ApiError, BadRequest
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.http_client import NoAnswer
from happy_light.images import inspection
from happy_light.images.inspection import Picture
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

SCOPE: Final = "read:user,user:email,read:org,codespace"
STATE_LIFETIME: Final = 300  # s between GET /params and the callback
STATE_MAX: Final = 4096  # characters of a state that is verified
CALLBACK_DEADLINE: Final = 20.0  # s for all requests that one callback makes to GitHub
WEBAPP: Final = "https://app.happy.engineering"
_ERROR_MAX: Final = 100  # characters of an error of GitHub that are passed on


# -------------------------------------------------------------------------------------------- wire
class SignInUrl(Outgoing):
    """The URL of GitHub's sign-in page."""

    url: str


class CallbackQuery(Incoming):
    """The query of the callback: code and state, or an error of GitHub."""

    code: str | None = None
    state: str | None = None
    error: str | None = None


class _TokenResponse(msgspec.Struct):
    """GitHub's answer to a code."""

    access_token: str | None = None
    error: str | None = None


class _UserResponse(msgspec.Struct):
    """The fields of a GitHub user that are read here; the whole profile is stored as it is."""

    id: int
    login: str
    name: str | None = None
    avatar_url: str | None = None


class _SignInError(Exception):
    """The sign-in failed; the text is the `error` that the web app receives (docs/protocol.md, section 10)."""


# ------------------------------------------------------------------------------------------- state
def make_state(signer: Signer, account_id: str) -> str:
    """Return the signed token that GitHub hands back: it names the account and is valid for 5 minutes."""
    return signer.mint(account_id, exp=int(time.time()) + STATE_LIFETIME)


def account_of_state(signer: Signer, state: str) -> str | None:
    """Return the account id of a state that `make_state` made and that is still valid, else None."""
    claims = signer.verify(state) if len(state) < STATE_MAX else None
    return claims["sub"] if claims is not None and "exp" in claims and isinstance(claims["sub"], str) else None


# ------------------------------------------------------------------------------- requests to GitHub
async def sign_in(context: ServerContext, account_id: str, code: str, base: str) -> str:
    """Link the account to the GitHub user who got the code; return the user's login.

    The avatar's URL begins with `base` (files.base_url). Raises _SignInError, NoAnswer, ApiError INVALID_TOKEN if
    the account was deleted meanwhile, and ServiceUnavailable.
    """
    token = await _fetch_token(context, code)
    user, profile = await _fetch_user(context, token)
    picture = await _fetch_picture(context, user.avatar_url)
    encrypted = await encrypt_token(context, account_id, token)
    github_user = GithubUser(str(user.id), user.login, user.name, profile, encrypted)
    await store_and_link(context, account_id, github_user, picture, base)
    return user.login


async def _fetch_token(context: ServerContext, code: str) -> str:
    settings = context.settings
    body = {
        "client_id": settings.github_client_id, "client_secret": settings.github_client_secret, "code": code,
    }  # fmt: skip
    url = f"{settings.github_url}/login/oauth/access_token"
    response = (await context.http_client.request("POST", url, body=body)).json(_TokenResponse)
    if response.access_token is None:
        raise _SignInError(response.error[:_ERROR_MAX] if response.error else "server_error")
    return response.access_token


async def _fetch_user(context: ServerContext, token: str) -> tuple[_UserResponse, str]:
    """Return the user of a token, and the whole profile as JSON. Raises _SignInError."""
    url = f"{context.settings.github_api_url}/user"
    try:
        answer = await context.http_client.request("GET", url, headers={"authorization": f"Bearer {token}"})
        if answer.status == 200:
            return answer.json(_UserResponse), answer.body.decode()
        log.warning("GitHub answered the request for a user with status %d", answer.status)
    except (NoAnswer, UnicodeError) as error:
        log.warning("GitHub did not answer the request for a user: %s", error)
    raise _SignInError("github_user_fetch_failed")


async def _fetch_picture(context: ServerContext, url: str | None) -> Picture | None:
    """Return the picture at a URL; None if it cannot be fetched or read, which does not fail the sign-in."""
    if url is None or not url.startswith(("https://", "http://")):
        return None
    headers = {"accept": "image/png, image/jpeg"}
    try:
        answer = await context.http_client.request("GET", url, headers=headers, limit=inspection.BYTES_MAX)
    except NoAnswer as error:
        log.warning("an avatar cannot be fetched: %s", error)
        return None
    return await threads.run(inspection.read, answer.body) if answer.status == 200 else None


# --------------------------------------------------------------------------------------- endpoints
async def get_params(request: Request[None, None]) -> SignInUrl:
    """Return the URL of GitHub's sign-in page for the caller's account."""
    settings = request.context.settings
    if not _is_configured(settings):
        raise ApiError(GITHUB_NOT_CONFIGURED)
    # On a worker thread: deriving the key takes about 0.1 s at its first use.
    state = await threads.run(make_state, request.context.keys.github, request.account_id)
    query = {
        "client_id": settings.github_client_id, "redirect_uri": settings.github_redirect_url, "scope": SCOPE,
        "state": state,
    }  # fmt: skip
    return SignInUrl(f"{settings.github_url}/login/oauth/authorize?{urlencode(query)}")


async def get_callback(request: Request[None, CallbackQuery]) -> Response:
    """Finish the sign-in and redirect the browser to the web app, with `github=connected&user=` or `error=`."""
    query = request.query
    if query.error:
        return _redirect(request, error=query.error[:_ERROR_MAX])
    if query.code is None or query.state is None:
        raise BadRequest("code and state are required")
    try:
        account_id = await threads.run(account_of_state, request.context.keys.github, query.state)
        if account_id is None or not await request.context.database.read(account_exists, account_id):
            raise _SignInError("invalid_state")
        if not _is_configured(request.context.settings):
            raise _SignInError("server_config")
        base = files.base_url(request)
        async with asyncio.timeout(CALLBACK_DEADLINE):
            login = await sign_in(request.context, account_id, query.code, base)
    except _SignInError as error:
        log.info("a GitHub sign-in failed: %s", error)
        return _redirect(request, error=str(error))
    except (NoAnswer, TimeoutError, ApiError) as error:
        log.warning("a GitHub sign-in failed: %s %s", type(error).__name__, error)
        return _redirect(request, error="server_error")
    except Exception:
        log.exception("a GitHub sign-in failed")
        return _redirect(request, error="server_error")
    log.info("account %s is linked to GitHub user %s", account_id, login)
    return _redirect(request, github="connected", user=login)


async def delete_link(request: Request[None, None]) -> Success:
    """Unlink the account from GitHub; its username is cleared, its avatar stays."""
    return await request.context.database.write(request.account_id, unlink)


def _is_configured(settings: Settings) -> bool:
    return None not in (settings.github_client_id, settings.github_client_secret, settings.github_redirect_url)


def _redirect(request: Request[Any, Any], **query: str) -> Response:
    """Redirect to the web app: HAPPY_WEBAPP_URL, else the one that this server serves, else the public one."""
    settings = request.context.settings
    base = settings.webapp_url
    if base is None and settings.ui_dir is not None:
        base = forwarded.server_url(settings, request.scope) + settings.ui_prefix.rstrip("/")
    return RedirectResponse(f"{base or WEBAPP}/?{urlencode(query)}", 302)


routes = [
    Route("GET", "/v1/connect/github/params", get_params, answer=SignInUrl, errors=[GITHUB_NOT_CONFIGURED]),
    Route(
        "GET", "/v1/connect/github/callback", get_callback, query=CallbackQuery, answer=None,
        other_responses={302: None}, public=True,
    ),
    Route("DELETE", "/v1/connect/github", delete_link),
]  # fmt: skip
