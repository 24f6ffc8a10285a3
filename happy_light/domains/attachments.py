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
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from happy_light import disk, origin
from happy_light.config import Settings
from happy_light.domains import sessions
from happy_light.errors import (
    ATTACHMENT_NOT_FOUND,
    FOREIGN_ATTACHMENT_REF,
    INVALID_ATTACHMENT_FILE,
    INVALID_ATTACHMENT_REF,
    SESSION_NOT_FOUND,
    TOO_MANY_UPLOADS,
    BadRequest,
    Refused,
)
from happy_light.house import House
from happy_light.store import Rx
from happy_light.web import Call, Route
from happy_light.wire import In, Out

SIZE_MAX: Final = 10 * 1024 * 1024  # bytes
UPLOADS_MAX: Final = 60  # that an account may request in WINDOW
WINDOW: Final = 60.0  # s
ACCOUNTS_MAX: Final = 100_000  # whose requests are counted; past that the longest counted is forgotten
STALE: Final = 3600  # s after which an unfinished upload is a leftover
_FILE: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\.enc")
_FLAT: Final = re.compile(r"(?!.*\.\.)[^/\\\x00-\x1f]+")  # no path in it
_HEADERS: Final = {"cache-control": "private, no-cache"}


# -------------------------------------------------------------------------------------------- wire
class NewAttachment(In):
    """POST …/request-upload; size in bytes. The name is the client's own affair."""

    filename: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]


class Upload(Out):
    """Where to send the bytes; `ref` is what goes into the message."""

    ref: str
    upload_url: str
    method: Literal["PUT"] = "PUT"


class WantedAttachment(In):
    """POST …/request-download"""

    ref: str


class Download(Out):
    """Where the bytes are."""

    download_url: str


class Stored(Out):
    """PUT …/:file"""

    ok: Literal[True] = True


# -------------------------------------------------------------------------------------- operations
class Uploads:
    """How many uploads each account requested in its current minute."""

    def __init__(self, house: House) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by the start of the minute

    def count(self, account_id: str) -> None:
        """One more. Raises Refused if it is one too many."""
        now = time.monotonic()
        while self._counts:
            oldest, (started, _) = next(iter(self._counts.items()))
            if now - started < WINDOW and len(self._counts) <= ACCOUNTS_MAX:
                break
            del self._counts[oldest]
        started, count = self._counts.get(account_id, (now, 0))
        if count >= UPLOADS_MAX:
            raise Refused(TOO_MANY_UPLOADS)
        self._counts[account_id] = (started, count + 1)


def named(session_id: str, ref: str) -> str:
    """The file's name in a ref. Raises Refused if it is none of that session's."""
    prefix = f"sessions/{session_id}/attachments/"
    if not ref.startswith(prefix):
        raise Refused(FOREIGN_ATTACHMENT_REF)
    name = ref.removeprefix(prefix)
    if not _FLAT.fullmatch(name):
        raise Refused(INVALID_ATTACHMENT_REF)
    return name


def leftovers(rx: Rx, settings: Settings) -> list[Path]:
    """What a crash left: folders of sessions that are gone, and uploads that never ended.

    Safe beside a running server: a session is stored before its folder is made.
    """
    folder = settings.attachments / "sessions"
    if not folder.is_dir():
        return []
    found = []
    for below in sorted(folder.iterdir()):
        if rx.one("SELECT 1 FROM sessions WHERE id = ?", (below.name,)) is None:
            found.append(below)
        elif below.is_dir():
            limit = time.time() - STALE
            found += [file for file in below.glob(f".*{disk.PART}") if file.stat().st_mtime < limit]
    return found


# --------------------------------------------------------------------------------------- endpoints
async def request_upload(call: Call[NewAttachment, None]) -> Upload:
    session_id = call.path["id"]
    call.house.get(Uploads).count(call.account_id)
    await call.house.store.read(sessions.owned, call.account_id, session_id)
    name = f"{uuid.uuid4()}.enc"
    return Upload(f"sessions/{session_id}/attachments/{name}", _url(call, name))


async def request_download(call: Call[WantedAttachment, None]) -> Download:
    session_id = call.path["id"]
    await call.house.store.read(sessions.owned, call.account_id, session_id)
    return Download(_url(call, named(session_id, call.body.ref)))


async def put(call: Call[None, None]) -> Stored:
    house, session_id, name = call.house, call.path["id"], call.path["file"]
    _check_type(call.header(b"content-type"))
    await house.store.read(sessions.owned, call.account_id, session_id)
    if not _FILE.fullmatch(name):
        raise Refused(INVALID_ATTACHMENT_FILE)
    folder = house.settings.attachments_of(session_id)
    try:
        await disk.store(_bytes(call), folder / name)
    finally:  # the session may have been deleted meanwhile, with its folder or before the file was in it
        try:
            await house.store.read(sessions.owned, call.account_id, session_id)
        except Refused:
            await disk.remove(folder)
            raise
    return Stored()


async def get(call: Call[None, None]) -> Response:
    session_id, name = call.path["id"], call.path["file"]
    await call.house.store.read(sessions.owned, call.account_id, session_id)
    if not _FLAT.fullmatch(name):
        raise Refused(INVALID_ATTACHMENT_FILE)
    if not _FILE.fullmatch(name):
        raise Refused(ATTACHMENT_NOT_FOUND)
    path = call.house.settings.attachments_of(session_id) / name
    answer = await disk.send(path, "application/octet-stream", _HEADERS)
    if answer is None:
        raise Refused(ATTACHMENT_NOT_FOUND)
    return answer


def _url(call: Call[NewAttachment, None] | Call[WantedAttachment, None], name: str) -> str:
    base = origin.of(call.house.settings, call.scope)
    return f"{base}/v1/sessions/{call.path['id']}/attachments/{quote(name)}"


async def _bytes(call: Call[None, None]) -> AsyncIterator[bytes]:
    """The body in pieces. Raises BadRequest if it is too large, or nothing at all."""
    empty = True
    async for piece in call.stream(SIZE_MAX):
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
        refusals=[TOO_MANY_UPLOADS, SESSION_NOT_FOUND],
    ),
    Route(
        "POST", "/v1/sessions/:id/attachments/request-download", request_download, body=WantedAttachment,
        answer=Download, refusals=[SESSION_NOT_FOUND, FOREIGN_ATTACHMENT_REF, INVALID_ATTACHMENT_REF],
    ),
    Route(
        "PUT", "/v1/sessions/:id/attachments/:file", put, answer=Stored, streams=True,
        refusals=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE],
    ),
    Route(
        "GET", "/v1/sessions/:id/attachments/:file", get, answer=bytes,
        refusals=[SESSION_NOT_FOUND, INVALID_ATTACHMENT_FILE, ATTACHMENT_NOT_FOUND],
    ),
]  # fmt: skip
