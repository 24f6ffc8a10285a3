"""Servers on loopback instead of those that ours calls: they note what they get and answer as told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


class VendorServer:
    """A server of one test. `answer(request, body)` is what it does; `got` is (request, body) so far."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.got: list[tuple[web.Request, Any]] = []
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.content_type == "application/json" and request.can_read_body else None
        self.got.append((request, body))
        return await self.answer(request, body)

    async def __aenter__(self) -> VendorServer:
        app = web.Application(client_max_size=50_000_000)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
