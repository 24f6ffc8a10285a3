"""This description: every route, socket event and shape.

GET /openapi.json   every route, as OpenAPI 3.1; socket events are below `x-socket`
GET /docs           routes, socket events and shapes on one page
"""

from __future__ import annotations

from typing import Annotated, Any

from starlette.responses import Response

from happy_light import compression, threads
from happy_light.blobs.file_response import is_known
from happy_light.domains.docs.documents import Document
from happy_light.domains.docs.page import style
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.ui import look


# --------------------------------------------------------------------------------------- endpoints
async def get_json(request: Request[None, None]) -> Response:
    """Return the OpenAPI document."""
    document = await threads.run(lambda: request.context.documents.json)  # the first one takes some 50 ms
    return _respond(request, document, {"content-type": "application/json; charset=utf-8"})


async def get_page(request: Request[None, None]) -> Response:
    """Return the HTML page."""
    document = await threads.run(lambda: request.context.documents.page)
    return _respond(request, document, {**look.headers(style()), "content-type": "text/html; charset=utf-8"})


def _respond(request: Request[None, None], document: Document, headers: dict[str, str]) -> Response:
    """Return a document, compressed if the client accepts that, or 304 if the client has it."""
    coding = "gzip" if compression.accepts(request.header(b"accept-encoding"), "gzip") else ""
    headers |= {"etag": document.etag(coding), "cache-control": "no-cache", "vary": "accept-encoding"}
    if is_known(headers["etag"], request.header(b"if-none-match") or ""):
        return Response(None, 304, headers)
    if coding:
        headers["content-encoding"] = coding
    return Response(document.forms[coding], 200, headers)


routes = [
    Route("GET", "/openapi.json", get_json, answer=dict[str, Any], public=True),
    Route("GET", "/docs", get_page, answer=Annotated[str, "text/html"], public=True),
]
