"""Signing in to the admin page: a one-time code in a link, then a cookie. The server keeps hashes of both.

POST   /admin/api/links   make a link to the page; only on the unix socket
POST   /admin/session     sign in to the page with the code of a link
DELETE /admin/session     sign out of the page
GET    /admin/api/session who is signed in to the page

The hashes are keyed with the master secret and lie in the database, so that every process of the server knows them,
a code is good for one sign-in in all of them together, and a new master secret ends them all.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from typing import Any, Final

from starlette.responses import Response

from happy_light import clock, json_codec, threads
from happy_light.admin.operator_name import operator_of
from happy_light.auth.keys import Keys
from happy_light.context import ServerContext
from happy_light.errors import TOO_MANY_REQUESTS, ApiError, ErrorResponse
from happy_light.http import addresses, forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, Success

log = logging.getLogger(__name__)

CODE_LIFETIME: Final = 600  # s
COOKIE_LIFETIME: Final = 12 * 3600  # s
COOKIE: Final = "happy_admin"
ATTEMPTS: Final = 10  # sign-ins that one address may try in a minute
KEPT_MAX: Final = 100  # codes, and cookies, that are valid at a time; beyond them the oldest ends

NO_SERVER: Final = ErrorResponse(409, "No server runs; the admin page is part of a running server")
SWITCHED_OFF: Final = ErrorResponse(409, "The admin page is switched off (HAPPY_SERVER_LIGHT_ADMIN_PAGE)")
NOT_SIGNED_IN: Final = ErrorResponse(401, "Not signed in to the admin page")
WRONG_CODE: Final = ErrorResponse(401, "This link was used already or is too old; `happy-server-light admin` makes one")


# -------------------------------------------------------------------------------------------- wire
class Link(Outgoing):
    """The answer of POST /admin/api/links: the same link at each address of the server. `expires_at` in ms."""

    urls: list[str]
    expires_at: int


class Code(Incoming):
    """POST /admin/session: the code in the fragment of the link."""

    code: str


class PageSession(Outgoing):
    """Who is signed in to the page: the user who made the link. `expires_at` in ms."""

    operator: str
    expires_at: int


# -------------------------------------------------------------------------------------- operations
def _key(kind: str, keys: Keys, token: str) -> str:
    """Return the row of a code or a cookie in the table meta. The first call takes 0.1 s."""
    return f"admin-{kind}:{hmac.digest(keys.admin_page, token.encode(), 'sha256').hex()}"


def _add(tx: Transaction, key: str, operator: str, lifetime: int) -> int:
    """Record a code or a cookie for `lifetime` s, drop expired ones, and return when (ms) it ends."""
    prefix = key.partition(":")[0]
    rows = tx.fetch_all("SELECT key, value FROM meta WHERE key LIKE ?", (f"{prefix}:%",))
    by_end = sorted((int(value.partition(" ")[0]), known) for known, value in rows)
    for index, (end, known) in enumerate(by_end):
        if end <= tx.now or index <= len(by_end) - KEPT_MAX:
            tx.execute("DELETE FROM meta WHERE key = ?", (known,))
    expires_at = tx.now + 1000 * lifetime
    tx.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, f"{expires_at} {operator}"))
    return expires_at


def _session(tx: ReadTransaction, key: str) -> PageSession | None:
    row = tx.fetch_one("SELECT value FROM meta WHERE key = ?", (key,))
    if row is None:
        return None
    expires_at, _, operator = row[0].partition(" ")
    return PageSession(operator, int(expires_at)) if int(expires_at) > clock.now_ms() else None


def _exchange(tx: Transaction, code: str, cookie: str) -> PageSession:
    """Use the code in the row `code` and begin the session of the row `cookie`. Raises ApiError WRONG_CODE."""
    made = _session(tx, code)
    if not tx.execute("DELETE FROM meta WHERE key = ?", (code,)) or made is None:
        raise ApiError(WRONG_CODE)
    return PageSession(made.operator, _add(tx, cookie, made.operator, COOKIE_LIFETIME))


def _end(tx: Transaction, cookie: str) -> PageSession | None:
    """End the session of the row `cookie` and return it, None if it was over."""
    session = _session(tx, cookie)
    tx.execute("DELETE FROM meta WHERE key = ?", (cookie,))
    return session


async def session_of(context: ServerContext, cookie: str) -> PageSession | None:
    """Return the session of a cookie's value, None if it has none or it is over."""
    key = await threads.run(_key, "cookie", context.keys, cookie)
    return await context.database.read(_session, key)


def cookie_of(request: Request[Any, Any]) -> str | None:
    """Return the value of the page's cookie."""
    for pair in (request.header(b"cookie") or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return None


# --------------------------------------------------------------------------------------- endpoints
async def post_link(request: Request[None, None]) -> Link:
    """Make a link to the page for the user who asks."""
    context, operator = request.context, operator_of(request.scope)
    settings = context.settings
    if context.listens_at is None:
        raise ApiError(NO_SERVER)
    if not settings.admin_page:
        raise ApiError(SWITCHED_OFF)
    code = secrets.token_urlsafe(24)
    key = await threads.run(_key, "code", context.keys, code)
    expires_at = await context.database.write_for((), _add, key, operator, CODE_LIFETIME)
    log.info("a link to the admin page is made for %s", operator)
    host, port = context.listens_at
    bases = [addresses.url(settings, address, port) for address in addresses.reachable(host)]
    if settings.public_url:
        bases.insert(0, settings.public_url)
    # In the fragment, which browsers send nowhere: no proxy and no log sees the code.
    return Link([f"{base}/admin#{code}" for base in bases], expires_at)


async def post_session(request: Request[Code, None]) -> Response:
    """Sign in to the page."""
    context = request.context
    address = forwarded.printable_address(context.settings, request.scope)
    if not context.admin_attempts.take(context.limits.address(request.scope), ATTEMPTS):
        raise ApiError(TOO_MANY_REQUESTS)
    cookie = secrets.token_urlsafe(32)
    code_key = await threads.run(_key, "code", context.keys, request.body.code)
    cookie_key = await threads.run(_key, "cookie", context.keys, cookie)
    session = await context.database.write_for((), _exchange, code_key, cookie_key)
    log.info("operator %s signed in to the admin page from %s", session.operator, address)
    answer = Response(json_codec.encode(session), media_type="application/json")
    _set_cookie(request, answer, cookie, COOKIE_LIFETIME)
    return answer


async def get_session(request: Request[None, None]) -> PageSession:
    """Show who is signed in."""
    session = await session_of(request.context, cookie_of(request) or "")
    if session is None:
        raise ApiError(NOT_SIGNED_IN)
    return session


async def delete_session(request: Request[None, None]) -> Response:
    """Sign out of the page."""
    cookie = cookie_of(request)
    if cookie is not None:
        key = await threads.run(_key, "cookie", request.context.keys, cookie)
        session = await request.context.database.write_for((), _end, key)
        if session is not None:
            log.info("operator %s signed out of the admin page", session.operator)
    answer = Response(json_codec.encode(Success()), media_type="application/json")
    _set_cookie(request, answer, "", 0)
    return answer


def _set_cookie(request: Request[Any, None], answer: Response, value: str, lifetime: int) -> None:
    """Set the cookie for this path's folder, /admin, also where a proxy has put a prefix before it."""
    secure = forwarded.requested_url(request.context.settings, request.scope).startswith("https:")
    answer.set_cookie(
        COOKIE, value, max_age=lifetime, path=None, secure=secure, httponly=True, samesite="strict"
    )  # fmt: skip


link_routes = [Route("POST", "/admin/api/links", post_link, answer=Link, errors=[NO_SERVER, SWITCHED_OFF], public=True)]
routes = [Route("GET", "/admin/api/session", get_session, answer=PageSession, errors=[NOT_SIGNED_IN], public=True)]
session_routes = [
    Route(
        "POST", "/admin/session", post_session, body=Code, answer=PageSession,
        errors=[WRONG_CODE, TOO_MANY_REQUESTS], public=True,
    ),
    Route("DELETE", "/admin/session", delete_session, public=True),
]  # fmt: skip
