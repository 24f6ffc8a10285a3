"""The admin page: one HTML file with its style and script, the same for everybody; the script asks the admin API.

GET    /admin    get the page
GET    /admin/   go to the page
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Final

from starlette.responses import RedirectResponse, Response

from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ui import look

_SCRIPTS: Final = ("basics", "overview", "accounts", "work", "start")
"""The parts of the script, in the order in which they run."""


async def get(request: Request[Any, Any]) -> Response:
    """Return the page."""
    style, script = _style(), _script()
    # With no-referrer, browsers would hide the page's origin from this server, too.
    headers = {**look.headers(style, script), "referrer-policy": "same-origin", "cache-control": "no-store"}
    page = look.page("Admin: Happy Server", look.read("admin/admin.html"), style, script)
    return Response(page, 200, headers, media_type="text/html")


async def get_slash(request: Request[Any, Any]) -> Response:
    """Go to the page, whatever a proxy has put before its path."""
    return RedirectResponse("../admin", 308)


@functools.cache
def _style() -> str:
    return look.read("admin/admin.css")


@functools.cache
def _script() -> str:
    return '"use strict";\n' + "".join(look.read(f"admin/{name}.js") for name in _SCRIPTS)


routes = [
    Route("GET", "/admin", get, answer=Annotated[str, "text/html"], public=True),
    Route("GET", "/admin/", get_slash, answer=None, other_responses={308: None}, public=True),
]
