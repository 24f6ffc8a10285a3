"""The only list of domains: collects their routes, events, hooks and jobs; and the middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from happy_light import live, openapi
from happy_light.admin import api as admin_api
from happy_light.context import ServerContext
from happy_light.domains import (
    access_keys,
    account,
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
    push,
    sessions,
    usage,
    version,
    voice,
)
from happy_light.domains.docs import endpoints as docs
from happy_light.domains.presence import handlers as presence
from happy_light.domains.rpc import handlers as rpc
from happy_light.http.application import HttpApplication, Route
from happy_light.live import EventHandler, SocketHooks, SocketServer
from happy_light.live.polling import Door
from happy_light.openapi import Tables
from happy_light.ui import routes as front

DOMAINS: tuple[ModuleType, ...] = (
    auth, account, sessions, messages, attachments, machines, artifacts, access_keys, kv, usage, push, connect,
    github, people, feed, rpc, presence, voice, files, version, health, client_logs, docs, front,
)  # fmt: skip

Job = Callable[[ServerContext], Awaitable[None]]


def routes() -> list[Route]:
    """Every HTTP route."""
    return [route for domain in DOMAINS for route in getattr(domain, "routes", ())]


def events() -> dict[str, EventHandler]:
    """Every socket event that clients may send."""
    return live.collect(getattr(domain, "events", {}) for domain in DOMAINS)


def tables() -> Tables:
    """Everything a client can meet here, for the documentation."""
    emits: dict[str, type[Any]] = {}
    for domain in DOMAINS:
        emits.update(getattr(domain, "emits", {}))
    docs = [module.__doc__ or "" for module in (*DOMAINS, *admin_api.MODULES)]
    return Tables([*routes(), *admin_api.routes()], events(), emits, docs)


def describe() -> openapi.Schema:
    """Return the OpenAPI document of everything a client can meet here."""
    return openapi.document(tables())


def jobs() -> dict[Job, float]:
    """What runs again and again, and every how many seconds."""
    return {job: every for domain in DOMAINS for job, every in getattr(domain, "jobs", {}).items()}


class App:
    """The ASGI application: Socket.IO under its path, HTTP for the rest."""

    def __init__(self, context: ServerContext) -> None:
        hooks = SocketHooks(
            connected=[domain.connected for domain in DOMAINS if hasattr(domain, "connected")],
            disconnected=[domain.disconnected for domain in DOMAINS if hasattr(domain, "disconnected")],
        )
        self.live = SocketServer(context, events(), hooks)
        self._door = Door(self.live)
        self._edge: ASGIApp = HttpApplication(context, routes(), front.fallback(context))
        self._cors = CORSMiddleware(
            self._edge, allow_origins=["*"], allow_methods=["GET", "POST", "PUT", "DELETE"], allow_headers=["*"]
        )
        # Browsers send HEAD to whom they may send GET, so it is not listed; but with a token they ask first.
        self._cors.allow_methods = [*self._cors.allow_methods, "HEAD"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        path = scope["path"]
        if not path.startswith("/"):
            scope = _origin_form(scope)
            path = scope["path"]
        if path.startswith(live.PATH) and path[len(live.PATH) :] in ("", "/"):
            await self._door(scope, receive, send)
        elif scope["type"] == "http":
            # Only browsers send an Origin; the middleware costs the others time for nothing.
            browser = any(name == b"origin" for name, _ in scope["headers"])
            await (self._cors if browser else self._edge)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def _origin_form(scope: Scope) -> Scope:
    """The scope of a request whose target is a whole URL, as clients of proxies write it: with the path alone."""
    _, colon, rest = scope["path"].partition("://")
    if not colon:
        return scope
    path = rest[len(rest.partition("/")[0]) :] or "/"
    _, _, raw = scope["raw_path"].partition(b"://")
    return {**scope, "path": path, "raw_path": raw[len(raw.partition(b"/")[0]) :] or b"/"}
