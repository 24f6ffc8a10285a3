"""Public files: avatars and the like; attachments are stored elsewhere (docs/protocol.md, section 8).

GET  /files/*     get a file, without a token; HEAD, ranges and If-None-Match work
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from happy_light import content_types
from happy_light.errors import FILE_NOT_FOUND, ApiError
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route

_HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable"}


# -------------------------------------------------------------------------------------- operations
def url(base: str, path: str) -> str:
    """Return the URL of a public file: `base` is what `base_url` returned, `path` is the file's key."""
    return f"{base}/{'/'.join(quote(part, safe='') for part in path.split('/'))}"


def base_url(request: Request[Any, Any]) -> str:
    """Return what the URLs of public files begin with: S3_PUBLIC_URL, or /files of this server."""
    settings = request.context.settings
    if settings.bucket is not None:
        return settings.bucket.public_url
    return f"{forwarded.server_url(settings, request.scope)}/files"


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Response:
    """Return a public file."""
    path = request.path["*"]
    media_type = content_types.content_type(path.rpartition("/")[2])
    answer = await request.context.blobs.public_response(path, media_type, _HEADERS)
    if answer is None:
        raise ApiError(FILE_NOT_FOUND)
    return answer


routes = [Route("GET", "/files/*", get, answer=bytes, errors=[FILE_NOT_FOUND], public=True)]
