"""Attachments: encrypted files of a session, at most 10 MiB each (protocol.md section 3).

POST /v1/sessions/:id/attachments/request-upload      where to put a new one
POST /v1/sessions/:id/attachments/request-download    where to get one
PUT  /v1/sessions/:id/attachments/:file               the bytes
GET  /v1/sessions/:id/attachments/:file

They are files only: <data>/attachments/sessions/<sessionId>/<uuid>.enc, gone with their session.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from happy_light.blobs import keys as blob_keys
from happy_light.domains import sessions
from happy_light.errors import (
    ATTACHMENT_NOT_FOUND,
    FOREIGN_ATTACHMENT_REF,
    INVALID_ATTACHMENT_FILE,
    INVALID_ATTACHMENT_REF,
    SESSION_NOT_FOUND,
    TOO_MANY_UPLOADS,
    ApiError,
    BadRequest,
)
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

SIZE_MAX: Final = 10 * 1024 * 1024  # bytes
_FLAT: Final = re.compile(r"(?!.*\.\.)[^/\\\x00-\x1f]+")  # no path in it
_HEADERS: Final = {"cache-control": "private, no-cache"}


# -------------------------------------------------------------------------------------------- wire
class NewAttachment(Incoming):
    """POST …/request-upload; size in bytes. The name is the client's own affair."""

    filename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]


class Upload(Outgoing):
    """Where to send the bytes; `ref` is what goes into the message."""

    ref: str
    upload_url: str
    method: Literal["PUT"] = "PUT"


class WantedAttachment(Incoming):
    """POST …/request-download"""

    ref: str


class Download(Outgoing):
    """Where the bytes are."""

    download_url: str


class Stored(Outgoing):
    """PUT …/:file"""

    ok: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
def named(session_id: str, ref: str) -> str:
    """The file's name in a ref. Raises Refused if it is none of that session's."""
    prefix = f"sessions/{session_id}/attachments/"
    if not ref.startswith(prefix):
        raise ApiError(FOREIGN_ATTACHMENT_REF)
    name = ref.removeprefix(prefix)
    if not _FLAT.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_REF)
    return name


# --------------------------------------------------------------------------------------- endpoints
async def request_upload(request: Request[NewAttachment, None]) -> Upload:
    session_id = request.path["id"]
    request.context.upload_rate.count(request.account_id)
    await request.context.database.read(sessions.owned, request.account_id, session_id)
    name = f"{uuid.uuid4()}.enc"
    return Upload(_key(session_id, name), _url(request, name))


async def request_download(request: Request[WantedAttachment, None]) -> Download:
    session_id = request.path["id"]
    await request.context.database.read(sessions.owned, request.account_id, session_id)
    return Download(_url(request, named(session_id, request.body.ref)))


async def put(request: Request[None, None]) -> Stored:
    context, session_id, name = request.context, request.path["id"], request.path["file"]
    _check_type(request.header(b"content-type"))
    await context.database.read(sessions.owned, request.account_id, session_id)
    key = _key(session_id, name)
    if not blob_keys.is_key(key):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    try:
        await context.blobs.put(key, _bytes(request), SIZE_MAX)
    finally:  # the session may have been deleted meanwhile, with its folder or before the file was in it
        try:
            await context.database.read(sessions.owned, request.account_id, session_id)
        except ApiError:
            await context.blobs.delete_prefix(f"sessions/{session_id}/")
            raise
    return Stored()


async def get(request: Request[None, None]) -> Response:
    session_id, name = request.path["id"], request.path["file"]
    await request.context.database.read(sessions.owned, request.account_id, session_id)
    if not _FLAT.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    key = _key(session_id, name)
    answer = None
    if blob_keys.is_key(key):
        answer = await request.context.blobs.response(key, "application/octet-stream", _HEADERS)
    if answer is None:
        raise ApiError(ATTACHMENT_NOT_FOUND)
    return answer


def _key(session_id: str, name: str) -> str:
    return f"sessions/{session_id}/attachments/{name}"


def _url(request: Request[NewAttachment, None] | Request[WantedAttachment, None], name: str) -> str:
    base = forwarded.server_url(request.context.settings, request.scope)
    return f"{base}/v1/sessions/{request.path['id']}/attachments/{quote(name)}"


async def _bytes(request: Request[None, None]) -> AsyncIterator[bytes]:
    """The body in pieces. Raises BadRequest if it is too large, or nothing at all."""
    empty = True
    async for piece in request.stream(SIZE_MAX):
        empty = False
        yield piece
    if empty:
        raise BadRequest("The attachment is empty")


def _check_type(content_type: str | None) -> None:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in ("", "application/json", "text/plain"):
        raise BadRequest("The content type of an attachment is application/octet-stream")
    if kind != "application/octet-stream":
        raise BadRequest(f"Content type {kind} is not application/octet-stream", 415)


routes = [
    Route(
        "POST", "/v1/sessions/:id/attachments/request-upload", request_upload, body=NewAttachment, answer=Upload,
        errors=[TOO_MANY_UPLOADS, SESSION_NOT_FOUND],
    ),
    Route(
        "POST", "/v1/sessions/:id/attachments/request-download", request_download, body=WantedAttachment,
        answer=Download, errors=[SESSION_NOT_FOUND, FOREIGN_ATTACHMENT_REF, INVALID_ATTACHMENT_REF],
    ),
    Route(
        "PUT", "/v1/sessions/:id/attachments/:file", put, answer=Stored, streams=True,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE],
    ),
    Route(
        "GET", "/v1/sessions/:id/attachments/:file", get, answer=bytes,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE, ATTACHMENT_NOT_FOUND],
    ),
]  # fmt: skip
