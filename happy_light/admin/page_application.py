"""What the public port answers below /admin: the page, signing in to it, and the admin API for who is signed in.

A request of another site cannot do anything here: no other origin gets CORS headers, the cookie is SameSite=Strict,
the browser says where the request comes from, and the page sends a header that a form or a link cannot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import Message, Receive, Scope, Send

from happy_light.admin import page_sign_in
from happy_light.admin.page_sign_in import NOT_SIGNED_IN, PageSession
from happy_light.context import ServerContext
from happy_light.errors import ApiError, ErrorResponse, ServiceUnavailable
from happy_light.http import forwarded
from happy_light.http.application import HttpApplication
from happy_light.http.request import Request
from happy_light.http.router import Route

log = logging.getLogger(__name__)

PATH: Final = "/admin"
HEADER: Final = b"x-happy-admin"
"""The header that the page sends with every request but downloads."""
RECHECK: Final = 2.0  # s between two looks whether the operator of a long request is still signed in

OTHER_SITE: Final = ErrorResponse(403, "The admin page takes requests of its own origin only")
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)


def is_below(path: str) -> bool:
    """Return whether a path belongs to the admin page."""
    return path == PATH or path.startswith(f"{PATH}/")


class PageApplication:
    """The ASGI application below /admin. `pages` are open to everybody, `api` to who is signed in.

    `api_downloads` are paths of the API below which a GET needs no header, since the browser sends it for a link.
    """

    def __init__(
        self, context: ServerContext, pages: Iterable[Route], api: Iterable[Route], api_downloads: tuple[str, ...] = ()
    ) -> None:
        self._context = context
        self._downloads = api_downloads
        self._pages = {route.path for route in pages}
        routes = [*pages, *page_sign_in.session_routes, *api]
        self._http = HttpApplication(context, routes, admit=self._admit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI). It ends when its operator signs out."""

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                added = [header for header in _HEADERS if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        work = asyncio.create_task(self._http(scope, receive, send_private))
        try:
            while not (await asyncio.wait({work}, timeout=RECHECK))[0]:
                if not await self._may_go_on(scope):
                    return
            await work
        finally:
            work.cancel()

    async def _admit(self, request: Request[Any, Any], route: Route) -> None:
        """Refuse what comes from elsewhere or from nobody who is signed in. Raises ApiError."""
        if route.path in self._pages:
            return
        scope = request.scope
        is_download = scope["path"].startswith(self._downloads) and scope["method"] == "GET"
        self._check_origin(request, is_download=is_download)
        if route in page_sign_in.session_routes:
            return
        session = await self._session(scope, request)
        if session is None:
            self._context.limits.count_request(scope)
            raise ApiError(NOT_SIGNED_IN)
        address = forwarded.printable_address(self._context.settings, scope)
        # What is downloaded may hold the master secret, so that it is an act like those that change something.
        level = logging.DEBUG if scope["method"] in ("GET", "HEAD") and not is_download else logging.INFO
        log.log(
            level, "operator %s on the page, from %s: %s %s", session.operator, address, scope["method"],
            scope["raw_path"].decode("ascii"),
        )  # fmt: skip

    def _check_origin(self, request: Request[Any, Any], *, is_download: bool) -> None:
        """Raise ApiError unless the request comes from the page itself."""
        if not is_download and request.header(HEADER) is None:
            raise ApiError(OTHER_SITE)
        site = request.header(b"sec-fetch-site")
        if site is not None:  # over HTTPS and on localhost; no page can choose it
            if site != "same-origin":
                raise ApiError(OTHER_SITE)
            return
        origin = request.header(b"origin")
        if origin is None:
            if request.scope["method"] not in ("GET", "HEAD"):  # browsers send it with all others
                raise ApiError(OTHER_SITE)
            return
        settings = self._context.settings
        urls = [forwarded.requested_url(settings, request.scope), settings.public_url or ""]
        if origin not in [f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls)]:
            raise ApiError(OTHER_SITE)

    async def _session(self, scope: Scope, request: Request[Any, Any]) -> PageSession | None:
        cookie = page_sign_in.cookie_of(request)
        if cookie is None:
            return None
        scope["happy_admin_cookie"] = cookie
        return await page_sign_in.session_of(self._context, cookie)

    async def _may_go_on(self, scope: Scope) -> bool:
        """Return whether the operator of a request that takes long is still signed in."""
        cookie = scope.get("happy_admin_cookie")
        if cookie is None:  # it is being read
            return True
        try:
            return await page_sign_in.session_of(self._context, cookie) is not None
        except ServiceUnavailable:
            return True
