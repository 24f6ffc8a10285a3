"""Conditional requests: a list that has not changed is not read and sent again (docs/protocol.md, section 22)."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response

from happy_light import json_codec
from happy_light.http.request import Request
from happy_light.http.responses import JSON, json_response

_MATCHES_MAX: Final = 64  # tags of one If-None-Match that are compared


async def answer_conditionally(
    request: Request[Any, Any], endpoint: Callable[[Request[Any, Any]], Awaitable[Any]], timed: bool
) -> Response:
    """Return 304 if the client has the current answer, else the endpoint's answer with its tag.

    Unless the answer is `timed`, the endpoint is not asked again while nothing of the account has changed and its
    answer is still kept. There are no tags and no kept answers if other processes may write to the database.
    """
    versions = request.context.database.versions
    if versions is None:
        answer = await endpoint(request)
        return answer if isinstance(answer, Response) else json_response(200, answer)
    # Taken before the data is read: a change in between makes the tag too old, never too new.
    version = versions.of(request.account_id)
    target = request.scope["raw_path"] + b"?" + request.scope["query_string"]
    tag = f'"{version}.{zlib.crc32(target):x}"'
    headers = {"etag": f"W/{tag}", "cache-control": "private, no-cache", "vary": "Authorization"}
    if _matches(request.header(b"if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    answers, key = request.context.answers, (request.account_id, target)
    body = None if timed else answers.find(key, version)
    if body is None:
        answer = await endpoint(request)
        if isinstance(answer, Response):  # a list that is too large to be kept
            answer.headers.update(headers)
            return answer
        body = json_codec.encode(answer)
        if not timed:
            answers.keep(key, version, body)
    return Response(body, media_type=JSON, headers=headers)


def _matches(header: str | None, tag: str) -> bool:
    """Return whether If-None-Match names the tag; `*` is not understood, since no client has a reason to send it."""
    tags = (header or "").split(",", _MATCHES_MAX)
    return any(each.strip().removeprefix("W/") == tag for each in tags)
