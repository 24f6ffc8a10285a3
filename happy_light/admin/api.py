"""The admin API: the same HTTP routes for the commands and for the admin page.

A running server answers them on the unix socket SOCKET_NAME in the data folder, which only the folder's owner can
open (mode 0600), and on the public port for who is signed in to the admin page (admin/page_application.py). While no
server runs, a command calls this application in its own process (admin/client.py).
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Final

from starlette.types import Receive, Scope, Send

from happy_light.admin import (
    account_admin,
    account_summaries,
    backups,
    devices,
    inspection,
    overview,
    page_sign_in,
    probe,
    prune,
    registration,
    stats,
)
from happy_light.admin.operator_name import operator_of
from happy_light.context import ServerContext
from happy_light.http.application import HttpApplication
from happy_light.http.router import Route

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "admin.sock"
MODULES: Final[tuple[ModuleType, ...]] = (
    account_admin, account_summaries, devices, registration, backups, prune, stats, overview, inspection, probe,
    page_sign_in,
)  # fmt: skip
DOWNLOADS: Final = ("/admin/api/backups/",)
"""Paths below which the page links to files."""


def routes() -> list[Route]:
    """Return every route of the admin API that the page may call."""
    return [route for module in MODULES for route in module.routes]


class AdminApplication:
    """The ASGI application of the admin API on the unix socket. Whoever can reach it may do everything."""

    def __init__(self, context: ServerContext) -> None:
        self._http = HttpApplication(context, [*routes(), *page_sign_in.link_routes])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "http":
            level = logging.DEBUG if scope["method"] in ("GET", "HEAD") else logging.INFO
            log.log(level, "operator %s: %s %s", operator_of(scope), scope["method"], scope["raw_path"].decode("ascii"))
        await self._http(scope, receive, send)
