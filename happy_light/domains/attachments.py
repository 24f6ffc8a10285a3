"""Attachments: encrypted files of a session, at most 10 MiB each (protocol.md section 3).

POST /v1/sessions/:id/attachments/request-upload      where to put a new one
POST /v1/sessions/:id/attachments/request-download    where to get one
PUT  /v1/sessions/:id/attachments/:file               the bytes
GET  /v1/sessions/:id/attachments/:file

They are files only: <data>/attachments/sessions/<sessionId>/<uuid>.enc, gone with their session.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from happy_light.blobs import local_files
from happy_light.config import Settings
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
from happy_light.http.application import Request, Route
from happy_light.store import ReadTransaction
from happy_light.wire import Incoming, Outgoing

SIZE_MAX: Final = 10 * 1024 * 1024  # bytes
STALE: Final = 3600  # s after which an unfinished upload is a leftover
_FILE: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\.enc")
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


def leftovers(tx: ReadTransaction, settings: Settings) -> list[Path]:
    """What a crash left: folders of sessions that are gone, and uploads that never ended.

    Safe beside a running server: a session is stored before its folder is made.
    """
    folder = settings.attachments / "sessions"
    if not folder.is_dir():
        return []
    found = []
    for below in sorted(folder.iterdir()):
        if tx.fetch_one("SELECT 1 FROM sessions WHERE id = ?", (below.name,)) is None:
            found.append(below)
        elif below.is_dir():
            limit = time.time() - STALE
            found += [file for file in below.glob(f".*{local_files.PART}") if file.stat().st_mtime < limit]
    return found


# --------------------------------------------------------------------------------------- endpoints
async def request_upload(request: Request[NewAttachment, None]) -> Upload:
    session_id = request.path["id"]
    request.context.upload_rate.count(request.account_id)
    await request.context.database.read(sessions.require_owned, request.account_id, session_id)
    name = f"{uuid.uuid4()}.enc"
    return Upload(f"sessions/{session_id}/attachments/{name}", _url(request, name))


async def request_download(request: Request[WantedAttachment, None]) -> Download:
    session_id = request.path["id"]
    await request.context.database.read(sessions.require_owned, request.account_id, session_id)
    return Download(_url(request, named(session_id, request.body.ref)))


async def put(request: Request[None, None]) -> Stored:
    context, session_id, name = request.context, request.path["id"], request.path["file"]
    _check_type(request.header(b"content-type"))
    await context.database.read(sessions.require_owned, request.account_id, session_id)
    if not _FILE.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    folder = context.settings.attachments_of(session_id)
    try:
        await local_files.store(_bytes(request), folder / name)
    finally:  # the session may have been deleted meanwhile, with its folder or before the file was in it
        try:
            await context.database.read(sessions.require_owned, request.account_id, session_id)
        except ApiError:
            await local_files.remove(folder)
            raise
    return Stored()


async def get(request: Request[None, None]) -> Response:
    session_id, name = request.path["id"], request.path["file"]
    await request.context.database.read(sessions.require_owned, request.account_id, session_id)
    if not _FLAT.fullmatch(name):
        raise ApiError(INVALID_ATTACHMENT_FILE)
    if not _FILE.fullmatch(name):
        raise ApiError(ATTACHMENT_NOT_FOUND)
    path = request.context.settings.attachments_of(session_id) / name
    answer = await local_files.send(path, "application/octet-stream", _HEADERS)
    if answer is None:
        raise ApiError(ATTACHMENT_NOT_FOUND)
    return answer


def _url(request: Request[NewAttachment, None] | Request[WantedAttachment, None], name: str) -> str:
    base = forwarded.of(request.context.settings, request.scope)
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
