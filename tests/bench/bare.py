"""The stack itself, to compare with: one Starlette route and one python-socketio event under Hypercorn.

The route reads the body and answers the bytes that a stored message is answered with; the event is
acknowledged and sent to one other socket.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import Any

import hypercorn.asyncio
import socketio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

STORED = b'{"messages":[{"id":"cmwr0brt00000f444075428eb","seq":1234,"localId":"l-000001","createdAt":1795303009896,"updatedAt":1795303009896}]}'  # noqa: E501


async def post(request: Request) -> Response:
    json.loads(await request.body())
    return Response(STORED, media_type="application/json")


async def health(request: Request) -> Response:
    return PlainTextResponse("ok")


def main(port: int) -> None:
    sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", max_http_buffer_size=100_000_000)

    @sio.on("message")  # type: ignore[untyped-decorator]
    async def message(sid: str, data: Any) -> Any:
        await sio.emit("update", data, to="ui")
        return {"ok": True, "id": "x", "seq": 1, "localId": None}

    @sio.on("connect")  # type: ignore[untyped-decorator]
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        if auth and auth.get("clientType") == "user-scoped":
            await sio.enter_room(sid, "ui")

    routes = [
        Route("/v3/sessions/{id}/messages", post, methods=["POST"]),
        Route("/health", health),
    ]
    app = socketio.ASGIApp(sio, other_asgi_app=Starlette(routes=routes), socketio_path="/v1/updates")
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("bare")
    config.keep_alive_max_requests = 10**9
    config.include_server_header = False

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)

    try:
        import uvloop

        uvloop.run(run())
    except ImportError:
        asyncio.run(run())


if __name__ == "__main__":
    main(int(sys.argv[1]))
