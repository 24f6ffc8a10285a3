"""Conditional requests: a list that has not changed is not read and sent again (docs/protocol.md, section 22)."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response

from happy_light.http.request import Request
from happy_light.http.responses import json_response

_MATCHES_MAX: Final = 64  # tags of one If-None-Match that are compared


async def answer_conditionally(
    request: Request[Any, Any], endpoint: Callable[[Request[Any, Any]], Awaitable[Any]]
) -> Response:
    """Return 304 if the client has the current answer, else the endpoint's answer with its tag.

    There are no tags if other processes may write to the database.
    """
    versions = request.context.database.versions
    if versions is None:
        return json_response(200, await endpoint(request))
    # Taken before the data is read: a change in between makes the tag too old, never too new.
    target = zlib.crc32(request.scope["raw_path"] + b"?" + request.scope["query_string"])
    tag = f'"{versions.of(request.account_id)}.{target:x}"'
    headers = {"etag": f"W/{tag}", "cache-control": "private, no-cache", "vary": "Authorization"}
    if _matches(request.header(b"if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    response = json_response(200, await endpoint(request))
    response.headers.update(headers)
    return response


def _matches(header: str | None, tag: str) -> bool:
    """Return whether If-None-Match names the tag; `*` is not understood, since no client has a reason to send it."""
    tags = (header or "").split(",", _MATCHES_MAX)
    return any(each.strip().removeprefix("W/") == tag for each in tags)
