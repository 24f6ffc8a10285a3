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
from typing import Annotated, Any, Final, Literal
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
_PLAIN_NAME: Final = re.compile(r"(?!.*\.\.)[^/\\\x00-\x1f]+")
"""A file name without a path in it."""
_HEADERS: Final = {"cache-control": "private, no-cache"}


# -------------------------------------------------------------------------------------------- wire
class NewAttachment(Incoming):
    """The body of POST /v1/sessions/:id/attachments/request-upload; size in bytes. The filename is not used."""

    filename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]


class Upload(Outgoing):
    """The URL to upload to, and the ref by which messages name the attachment."""

    ref: str
    upload_url: str
    method: Literal["PUT"] = "PUT"


class AttachmentRef(Incoming):
    """The body of POST /v1/sessions/:id/attachments/request-download."""

    ref: str


class Download(Outgoing):
    """The URL to download from."""

    download_url: str


class Uploaded(Outgoing):
    """The attachment was stored."""

    ok: Literal[True] = True


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
    session_id = request.path["id"]
    request.context.upload_rate.count(request.account_id)
    await _require_session(request)
    name = f"{uuid.uuid4()}.enc"
    return Upload(_key(session_id, name), _url(request, name))


async def post_request_download(request: Request[AttachmentRef, None]) -> Download:
    """Return the URL to download an attachment from."""
    await _require_session(request)
    return Download(_url(request, name_of_ref(request.path["id"], request.body.ref)))


async def put(request: Request[None, None]) -> Uploaded:
    """Store the body, at most 10 MiB, as an attachment."""
    session_id = request.path["id"]
    _check_type(request.header(b"content-type"))
    await _require_session(request)
    key = _key(session_id, request.path["file"])
    if not blob_keys.is_key(key):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    try:
        await request.context.blobs.put(key, _body(request), SIZE_MAX)
    finally:
        # The session may have been deleted meanwhile: with its files, or before this one was stored.
        try:
            await _require_session(request)
        except ApiError:
            await request.context.blobs.delete_prefix(f"sessions/{session_id}/")
            raise
    return Uploaded()


async def get(request: Request[None, None]) -> Response:
    """Return the bytes of an attachment."""
    name = request.path["file"]
    await _require_session(request)
    if not _PLAIN_NAME.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    key = _key(request.path["id"], name)
    answer = None
    if blob_keys.is_key(key):
        answer = await request.context.blobs.response(key, "application/octet-stream", _HEADERS)
    if answer is None:
        raise ApiError(ATTACHMENT_NOT_FOUND)
    return answer


def _key(session_id: str, name: str) -> str:
    return f"sessions/{session_id}/attachments/{name}"


async def _require_session(request: Request[Any, None]) -> None:
    """Raise ApiError SESSION_NOT_FOUND unless the caller owns the session in the path."""
    await request.context.database.read(sessions.require_owned, request.account_id, request.path["id"])


def _url(request: Request[Any, None], name: str) -> str:
    base = forwarded.server_url(request.context.settings, request.scope)
    return f"{base}/v1/sessions/{request.path['id']}/attachments/{quote(name)}"


async def _body(request: Request[None, None]) -> AsyncIterator[bytes]:
    """Yield the body in pieces. Raises BadRequest if it is larger than 10 MiB or empty."""
    empty = True
    async for piece in request.stream(SIZE_MAX):
        empty = False
        yield piece
    if empty:
        raise BadRequest("The attachment is empty")


def _check_type(content_type: str | None) -> None:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in ("", "application/json", "text/plain"):
        raise BadRequest("The content type of an attachment must be application/octet-stream")
    if kind != "application/octet-stream":
        raise BadRequest(f"Content type {kind} is not application/octet-stream", 415)


routes = [
    Route(
        "POST", "/v1/sessions/:id/attachments/request-upload", post_request_upload, body=NewAttachment, answer=Upload,
        errors=[TOO_MANY_UPLOADS, SESSION_NOT_FOUND],
    ),
    Route(
        "POST", "/v1/sessions/:id/attachments/request-download", post_request_download, body=AttachmentRef,
        answer=Download, errors=[SESSION_NOT_FOUND, FOREIGN_ATTACHMENT_REF, INVALID_ATTACHMENT_REF],
    ),
    Route(
        "PUT", "/v1/sessions/:id/attachments/:file", put, answer=Uploaded, streams=True,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE],
    ),
    Route(
        "GET", "/v1/sessions/:id/attachments/:file", get, answer=bytes,
        errors=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE, ATTACHMENT_NOT_FOUND],
    ),
]  # fmt: skip
