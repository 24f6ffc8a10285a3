"""Attachments: encrypted files of a session, at most 10 MiB each (docs/protocol.md, section 3).

POST /v1/sessions/:id/attachments/request-upload      get the URL to upload a new attachment to
POST /v1/sessions/:id/attachments/request-download    get the URL to download an attachment from
PUT  /v1/sessions/:id/attachments/:file               upload an attachment
GET  /v1/sessions/:id/attachments/:file               download an attachment

They are files only, under the keys sessions/<sessionId>/attachments/<uuid>.enc, deleted with their session.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import RedirectResponse, Response

from happy_light.blobs import keys as blob_keys
from happy_light.domains import sessions, uploads
from happy_light.domains.uploads import SIZE_MAX, Upload, Uploaded
from happy_light.errors import (
    ATTACHMENT_DIRECT_UPLOAD,
    ATTACHMENT_NOT_FOUND,
    FILE_TOO_LARGE,
    FOREIGN_ATTACHMENT_REF,
    INVALID_ATTACHMENT_FILE,
    INVALID_ATTACHMENT_REF,
    SESSION_NOT_FOUND,
    TOO_MANY_UPLOADS,
    ApiError,
    BadRequest,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

_PLAIN_NAME: Final = re.compile(r"(?!.*\.\.)[^/\\\x00-\x1f]+")
"""A file name without a path in it."""
_HEADERS: Final = {"cache-control": "private, no-cache"}


# -------------------------------------------------------------------------------------------- wire
class NewAttachment(Incoming):
    """The body of POST /v1/sessions/:id/attachments/request-upload; size in bytes. The filename is not used."""

    filename: str
    size: Annotated[int, msgspec.Meta(ge=0)]


class AttachmentRef(Incoming):
    """The body of POST /v1/sessions/:id/attachments/request-download."""

    ref: str


class Download(Outgoing):
    """The URL to download from."""

    download_url: str


# -------------------------------------------------------------------------------------- operations
def name_of_ref(session_id: str, ref: str) -> str:
    """Return the file name in a ref.

    Raises ApiError FOREIGN_ATTACHMENT_REF for a ref of another session, INVALID_ATTACHMENT_REF for a path in it.
    """
    prefix = f"sessions/{session_id}/attachments/"
    if not ref.startswith(prefix):
        raise ApiError(FOREIGN_ATTACHMENT_REF)
    name = ref.removeprefix(prefix)
    if not _PLAIN_NAME.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_REF)
    return name


# --------------------------------------------------------------------------------------- endpoints
async def post_request_upload(request: Request[NewAttachment, None]) -> Upload:
    """Return the URL to upload a new attachment to; an account may request 60 per minute."""
    await request.context.attachment_rate.count(request.account_id)
    await _require_session(request)
    if request.body.size > SIZE_MAX:
        raise ApiError(FILE_TOO_LARGE)
    key = _key(request.path["id"], f"{uuid.uuid4()}.enc")
    return await uploads.upload(request, key, 0)


async def post_request_download(request: Request[AttachmentRef, None]) -> Download:
    """Return the URL to download an attachment from."""
    await _require_session(request)
    key = _key(request.path["id"], quote(name_of_ref(request.path["id"], request.body.ref)))
    url = await request.context.blobs.download_url(key) if blob_keys.is_key(key) else None
    return Download(url or uploads.route_url(request, key))


async def put(request: Request[None, None]) -> Uploaded:
    """Store the body, at most 10 MiB, as an attachment."""
    _check_type(uploads.content_type(request))
    await _require_session(request)
    key = _key(request.path["id"], request.path["file"])
    if not blob_keys.is_key(key):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    if await request.context.blobs.upload_target(key, 0, SIZE_MAX) is not None:
        raise ApiError(ATTACHMENT_DIRECT_UPLOAD)
    await uploads.store(request.context.blobs, key, _body(request), lambda: _require_session(request))
    return Uploaded()


async def get(request: Request[None, None]) -> Response:
    """Return the bytes of an attachment, or redirect to where they are."""
    name = request.path["file"]
    await _require_session(request)
    if not _PLAIN_NAME.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    key = _key(request.path["id"], name)
    answer = None
    if blob_keys.is_key(key):
        url = await request.context.blobs.download_url(key)
        if url is not None:
            return RedirectResponse(url, 302, _HEADERS)
        answer = await request.context.blobs.response(key, uploads.CONTENT_TYPE, _HEADERS)
    if answer is None:
        raise ApiError(ATTACHMENT_NOT_FOUND)
    return answer


async def _require_session(request: Request[Any, None]) -> None:
    """Raise ApiError SESSION_NOT_FOUND unless the caller owns the session in the path."""
    await request.context.database.read(sessions.require_owned, request.account_id, request.path["id"])


def _key(session_id: str, name: str) -> str:
    return f"sessions/{session_id}/attachments/{name}"


async def _body(request: Request[None, None]) -> AsyncIterator[bytes]:
    """Yield the body in pieces. Raises ApiError FILE_TOO_LARGE past 10 MiB, BadRequest if it is empty."""
    empty = True
    async for piece in uploads.receive(request, FILE_TOO_LARGE):
        empty = False
        yield piece
    if empty:
        raise BadRequest("The attachment is empty")


def _check_type(kind: str) -> None:
    """Raise BadRequest, with 400 or 415, for a content type that is not that of an attachment."""
    if kind in ("", "application/json", "text/plain"):
        raise BadRequest(f"The content type of an attachment must be {uploads.CONTENT_TYPE}")
    if kind != uploads.CONTENT_TYPE:
        raise BadRequest(f"Content type {kind} is not {uploads.CONTENT_TYPE}", 415)


routes = [
    Route(
        "POST", "/v1/sessions/:id/attachments/request-upload", post_request_upload, body=NewAttachment, answer=Upload,
        errors=[TOO_MANY_UPLOADS, SESSION_NOT_FOUND, FILE_TOO_LARGE],
    ),
    Route(
        "POST", "/v1/sessions/:id/attachments/request-download", post_request_download, body=AttachmentRef,
        answer=Download, errors=[SESSION_NOT_FOUND, FOREIGN_ATTACHMENT_REF, INVALID_ATTACHMENT_REF],
    ),
    Route(
        "PUT", "/v1/sessions/:id/attachments/:file", put, answer=Uploaded, streams=True,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE, ATTACHMENT_DIRECT_UPLOAD, FILE_TOO_LARGE],
    ),
    Route(
        "GET", "/v1/sessions/:id/attachments/:file", get, answer=bytes,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE, ATTACHMENT_NOT_FOUND], other_responses={302: None},
    ),
]  # fmt: skip
