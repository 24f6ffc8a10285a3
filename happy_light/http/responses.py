"""What is sent to clients: JSON, the bodies of errors, and an answer before the request's body has arrived."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Scope, Send

from happy_light import json_codec
from happy_light.errors import ApiError, BadRequest
from happy_light.http.body import ClientGone
from happy_light.http.request import Request
from happy_light.wire import Failure

JSON: Final = "application/json; charset=utf-8"
_DRAIN: Final = 5.0  # s in which the rest of a refused body may arrive before the connection is cut


async def send_json(send: Send, body: bytes) -> None:
    """Send JSON with status 200."""
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def json_response(status: int, value: Any) -> Response:
    """Return a JSON answer with a status other than 200."""
    return Response(json_codec.encode(value), status, media_type=JSON)


def refusal(error: ApiError) -> Response:
    """Return the answer of a refusal: `{"error": <text>}` and what else the error carries."""
    return json_response(error.response.status, {"error": error.response.error, **error.extra})


def failure(status: int, message: str) -> Response:
    """Return `{error, message, statusCode}`, for what does not fit its schema and for errors of the server."""
    return json_response(status, Failure(HTTPStatus(status).phrase, message, status))


def not_found(scope: Scope) -> Response:
    """Return the 404 of an unknown path."""
    url = scope["raw_path"].decode("ascii")
    if scope["query_string"]:
        url += "?" + scope["query_string"].decode("latin-1")
    return json_response(404, {"error": "Not found", "path": url, "method": scope["method"]})


async def refuse_body(request: Request[Any, Any], response: Response, send: Send) -> None:
    """Send `response` while the rest of the body is still arriving, and close the connection.

    The rest is read for up to 5 s: Hypercorn would wait for room in its queue for ever, and a connection that is
    closed with bytes unread is reset, so that the client would not see the answer.
    """
    response.headers["connection"] = "close"
    drain = asyncio.ensure_future(_drain(request))
    try:
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await asyncio.wait({drain}, timeout=_DRAIN)
        await send({"type": "http.response.body", "body": b""})
    finally:
        drain.cancel()


async def _drain(request: Request[Any, Any]) -> None:
    """Read and drop the rest of the body, however it ends."""
    with contextlib.suppress(BadRequest, ClientGone):
        await request.discard_body()
