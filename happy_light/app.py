"""The whole application: the only list of domains, and what is made of their tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from happy_light import live
from happy_light.admin import api as admin_api
from happy_light.admin import page_application, page_sign_in
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import (
    access_keys,
    account,
    app_state,
    artifacts,
    attachments,
    auth,
    client_logs,
    connect,
    feed,
    files,
    github,
    health,
    kv,
    machines,
    messages,
    people,
    pictures,
    projects,
    push,
    sessions,
    subscriptions,
    usage,
    version,
    voice,
)
from happy_light.domains.docs import endpoints as docs
from happy_light.domains.presence import handlers as presence
from happy_light.domains.rpc import handlers as rpc
from happy_light.http.application import HttpApplication
from happy_light.http.cors import AnyOrigin
from happy_light.http.router import Route
from happy_light.live import EventHandler, SocketHooks, SocketServer
from happy_light.ui import admin_page
from happy_light.ui import routes as ui

Job = Callable[[ServerContext], Awaitable[None]]


class Domain(msgspec.Struct, frozen=True):
    """What the module of a domain contributes: the variables of these names, as far as it has them.

    - `routes`: HTTP routes. `events`: handlers of socket events. `emits`: events that handlers send by themselves,
      with the struct of their payload.
    - `jobs`: functions that run every so many seconds.
    - `connected`, `disconnected`: called when a socket has connected, and with the reason when it has ended.
    """

    name: str
    description: str
    routes: Sequence[Route] = ()
    events: Mapping[str, EventHandler] = {}
    emits: Mapping[str, type[Any]] = {}
    jobs: Mapping[Job, float] = {}
    connected: Callable[[ServerContext, Client], None] | None = None
    disconnected: Callable[[ServerContext, Client, str], None] | None = None


_NAMES = ("routes", "events", "emits", "jobs", "connected", "disconnected")


def _domain(module: ModuleType) -> Domain:
    contents = vars(module)
    domain = module.__name__.removeprefix("happy_light.").removeprefix("domains.").partition(".")[0]
    return Domain(domain, module.__doc__ or "", **{name: contents[name] for name in _NAMES if name in contents})


DOMAINS: tuple[Domain, ...] = tuple(
    map(
        _domain,
        (
            auth, account, sessions, messages, attachments, projects, pictures, machines, subscriptions, artifacts,
            access_keys, kv, usage, push, connect, github, people, feed, rpc, app_state, presence, voice, files,
            version, health, client_logs, docs, ui,
        ),
    )
)  # fmt: skip


def routes() -> list[Route]:
    """Return every HTTP route."""
    return [route for domain in DOMAINS for route in domain.routes]


def events() -> dict[str, EventHandler]:
    """Return the handler of every socket event that clients may send."""
    return live.collect(domain.events for domain in DOMAINS)


def jobs() -> dict[Job, float]:
    """Return the functions that run again and again, and every how many seconds each does."""
    return {job: seconds for domain in DOMAINS for job, seconds in domain.jobs.items()}


def describe() -> dict[str, Any]:
    """Return the OpenAPI document of all routes and events, those of the admin API included."""
    from happy_light import openapi  # 15 ms, for those who read it

    emits = {name: payload for domain in DOMAINS for name, payload in domain.emits.items()}
    descriptions = {domain.name: domain.description for domain in DOMAINS}
    of_admin = [module.__doc__ or "" for module in (*admin_api.MODULES, admin_page)]
    return openapi.document(openapi.Tables([*routes(), *admin_routes()], events(), emits, descriptions, of_admin))


def admin_routes() -> list[Route]:
    """Return the routes below /admin, those of the unix socket included."""
    return [*admin_page.routes, *page_sign_in.link_routes, *page_sign_in.session_routes, *admin_api.routes()]


class App:
    """The ASGI application: Socket.IO under its path, the admin page below /admin, HTTP for the rest."""

    def __init__(self, context: ServerContext) -> None:
        hooks = SocketHooks(
            connected=[domain.connected for domain in DOMAINS if domain.connected is not None],
            disconnected=[domain.disconnected for domain in DOMAINS if domain.disconnected is not None],
        )
        self.live = SocketServer(context, events(), hooks)
        self._http = AnyOrigin(HttpApplication(context, routes(), ui.FALLBACK))
        self._has_admin_page = context.settings.admin_page
        self._admin = page_application.PageApplication(
            context, admin_page.routes, admin_api.routes(), admin_api.DOWNLOADS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or serve one websocket."""
        if scope["type"] == "lifespan":
            return
        if not scope["path"].startswith("/"):
            scope = _origin_form(scope)
        if scope["path"].removesuffix("/") == live.PATH:
            await self.live(scope, receive, send)
        elif scope["type"] == "http" and self._has_admin_page and page_application.is_below(scope["path"]):
            await self._admin(scope, receive, send)  # which no other origin may call
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def _origin_form(scope: Scope) -> Scope:
    """Return the scope of a request whose target is a whole URL (as sent to proxies), with the path of that URL."""
    _, colon, rest = scope["path"].partition("://")
    if not colon:
        return scope
    path = rest[len(rest.partition("/")[0]) :] or "/"
    _, _, raw = scope["raw_path"].partition(b"://")
    return {**scope, "path": path, "raw_path": raw[len(raw.partition(b"/")[0]) :] or b"/"}
