"""Public files, such as avatars (light.md section 3). Attachments are elsewhere and never reachable here.

GET  /files/*     public; HEAD, ranges and If-None-Match work
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from happy_light.blobs import local_files
from happy_light.errors import FILE_NOT_FOUND, ApiError
from happy_light.http import content_types
from happy_light.http.application import Request, Route

_HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable"}
_FORBIDDEN: Final = re.compile(r"[\x00\\]|(^|/)\.\.(/|$)|^/|^[A-Za-z]:")


# -------------------------------------------------------------------------------------- operations
def url(base: str, path: str) -> str:
    """The address of a public file; `base` as origin.of has it, `path` below the folder."""
    return f"{base}/files/{'/'.join(quote(part, safe='') for part in path.split('/'))}"


def locate(folder: Path, name: str) -> Path:
    """The file of a decoded URL path, symlinks followed. Raises Refused if it would be outside the folder."""
    if not name or _FORBIDDEN.search(name):
        raise ApiError(FILE_NOT_FOUND)
    try:
        root = folder.resolve()
        path = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # not there; not encodable; symlinks in a circle
        raise ApiError(FILE_NOT_FOUND) from None
    if not path.is_relative_to(root):
        raise ApiError(FILE_NOT_FOUND)
    return path


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Response:
    path = await asyncio.to_thread(locate, request.context.settings.files, request.path["*"])
    answer = await local_files.send(path, content_types.type_of(path.name), _HEADERS)
    if answer is None:
        raise ApiError(FILE_NOT_FOUND)
    return answer


routes = [Route("GET", "/files/*", get, answer=bytes, errors=[FILE_NOT_FOUND], public=True)]
