"""CORS: any origin may call any route with any header (docs/protocol.md section 1.4)."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class AnyOrigin:
    """Starlette's CORS middleware for requests of browsers; others, which send no Origin, pass it by."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._middleware = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"],
            allow_headers=["*"],
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        has_origin = any(name == b"origin" for name, _ in scope["headers"])
        await (self._middleware if has_origin else self._app)(scope, receive, send)
