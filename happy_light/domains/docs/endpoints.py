"""The description of the server, made of its own tables at the first request.

GET /openapi.json   every route, as OpenAPI 3.1
GET /docs           routes, socket events and shapes on one page
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any

from starlette.responses import HTMLResponse, Response

from happy_light import threads
from happy_light.domains.docs.page import STYLE
from happy_light.http.request import Request
from happy_light.http.router import Route


# --------------------------------------------------------------------------------------- endpoints
async def get_json(request: Request[None, None]) -> Response:
    """Return the OpenAPI document."""
    text = await threads.run(request.context.documents.json)  # the first one takes some 50 ms
    return Response(text, media_type="application/json; charset=utf-8")


async def get_page(request: Request[None, None]) -> Response:
    """Return the HTML page."""
    text = await threads.run(request.context.documents.page)
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    headers = {
        "content-security-policy": f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(text, headers=headers)


routes = [
    Route("GET", "/openapi.json", get_json, answer=dict[str, Any], public=True),
    Route("GET", "/docs", get_page, answer=Annotated[str, "text/html"], public=True),
]
