"""The HTTP requests of polling clients (Engine.IO, revision 4), and their answers."""

from __future__ import annotations

import json
import logging
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from happy_light.context import ServerContext
from happy_light.errors import ApiError, BadRequest
from happy_light.http.body import ClientGone
from happy_light.http.request import Request
from happy_light.http.responses import failure, refuse_body
from happy_light.live.polling import PollingTransport
from happy_light.live.socket_packets import PacketError
from happy_light.live.transport import UNAUTHENTICATED_MAX, Connections

log = logging.getLogger(__name__)

_TEXT: Final = b"text/plain; charset=UTF-8"

Answer = tuple[int, bytes]
"""Status and body."""


class PollingRequests:
    """Answer the requests of all polling clients."""

    def __init__(self, context: ServerContext, connections: Connections) -> None:
        self._context = context
        self._connections = connections

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI)."""
        query = parse_query(scope)
        transport = self._connections.by_id.get(query.get("sid", ""))
        polling = transport if isinstance(transport, PollingTransport) else None
        request: Request[None, None] = Request(self._context, scope, receive, {})
        if polling is not None and polling.client is not None:
            request.account_id = polling.client.account_id  # whose memory the body takes
        try:
            if "sid" not in query and self._connections.limits.refuses_connection(scope):
                raise BadRequest("Too many connections that are not signed in", 429)
            body = await request.read(UNAUTHENTICATED_MAX if polling is None else polling.body_max)
            if polling is None and transport is not None:
                status, content = 400, _text("Unexpected HTTP request")
            else:
                status, content = await self._answer(scope, query, polling, body)
        except ClientGone:
            return
        except (BadRequest, ApiError) as refused:
            if polling is not None:
                polling.end("server disconnect")
            error = refused if isinstance(refused, BadRequest) else BadRequest(str(refused), refused.response.status)
            await refuse_body(request, failure(error.status, str(error)), send)
            return
        finally:
            request.release()
        headers = [(b"content-type", _TEXT), (b"content-length", b"%d" % len(content)), *_cors(scope)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(
        self, scope: Scope, query: dict[str, str], polling: PollingTransport | None, body: bytes
    ) -> Answer:
        method = scope["method"]
        if method == "OPTIONS":
            return 200, b"OK"
        if method not in ("GET", "POST"):
            return 405, b"Method Not Allowed"
        problem = refusal(query, "polling")
        if problem is not None:
            return 400, _text(problem)
        if "sid" not in query and method == "GET":
            return 200, self._open(scope)
        if polling is None:
            return 400, _text("Invalid session")
        if method == "GET":
            return 200, await polling.poll()
        try:
            await polling.receive_body(body)
        except (PacketError, UnicodeDecodeError) as error:
            polling.malformed(error)
            return 400, _text("Not a packet")
        return 200, b"OK"

    def _open(self, scope: Scope) -> bytes:
        polling = PollingTransport(self._connections, self._connections.limits.address(scope))
        polling.opened()
        return self._connections.open_packet(polling, ["websocket"]).data


def parse_query(scope: Scope) -> dict[str, str]:
    """Return the first value of each parameter."""
    return {name: values[0] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}


def refusal(query: dict[str, str], transport: str) -> str | None:
    """Return why a request of this transport ("polling", "websocket") cannot be answered; None if it can."""
    asked = query.get("transport", "polling")
    if asked not in ("polling", "websocket"):
        return "Invalid transport"
    if "sid" not in query and query.get("EIO") != "4":
        return "The client is using an unsupported version of the Socket.IO or Engine.IO protocols"
    if "j" in query:
        return "JSONP is not supported"
    if asked != transport:
        return "Invalid transport" if "sid" in query else "Invalid websocket upgrade"
    return None


def _text(problem: str) -> bytes:
    return json.dumps(problem).encode()


def _cors(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers that let pages of any origin use polling, with credentials."""
    headers = [(b"access-control-allow-credentials", b"true")]
    if scope["method"] == "OPTIONS":
        headers.append((b"access-control-allow-methods", b"OPTIONS, GET, POST"))
    for name, value in scope["headers"]:
        if name == b"origin":
            headers.append((b"access-control-allow-origin", value))
        elif name == b"access-control-request-headers":
            headers.append((b"access-control-allow-headers", value))
    return headers
