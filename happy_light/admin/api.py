"""The admin API: the same HTTP routes for the commands, and later for an admin page.

A running server answers them on the unix socket SOCKET_NAME in the data folder, which only the folder's owner can
open (mode 0600); the public port does not know them. While no server runs, a command calls this application in its
own process (admin/client.py).
"""

from __future__ import annotations

import logging
import re
from types import ModuleType
from typing import Final

from starlette.types import Receive, Scope, Send

from happy_light.admin import account_admin, probe, prune, registration, stats
from happy_light.context import ServerContext
from happy_light.http.application import HttpApplication
from happy_light.http.router import Route

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "admin.sock"
OPERATOR: Final = b"x-happy-operator"
"""The header in which a command names the user who runs it, for the log."""

MODULES: Final[tuple[ModuleType, ...]] = (account_admin, registration, prune, stats, probe)
_NAME: Final = re.compile(rb"[\w.@+-]{1,64}")


def routes() -> list[Route]:
    """Return every route of the admin API."""
    return [route for module in MODULES for route in module.routes]


class AdminApplication:
    """The ASGI application of the admin API. Whoever can reach it may do everything."""

    def __init__(self, context: ServerContext) -> None:
        self._http = HttpApplication(context, routes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "http":
            level = logging.DEBUG if scope["method"] in ("GET", "HEAD") else logging.INFO
            log.log(level, "operator %s: %s %s", _operator(scope), scope["method"], scope["raw_path"].decode("ascii"))
        await self._http(scope, receive, send)


def _operator(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == OPERATOR and _NAME.fullmatch(value):
            return str(value, "ascii")
    return "unknown"
