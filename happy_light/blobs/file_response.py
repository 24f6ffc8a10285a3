"""An HTTP answer that sends a file in chunks, with ranges, ETag, If-None-Match and HEAD (RFC 9110)."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from happy_light import threads

_CHUNK: Final = 256 * 1024  # bytes read from disk at a time
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def open_regular(path: Path) -> int | None:
    """Open a regular file for reading and return its descriptor; None if there is none. Symlinks are not followed."""
    try:
        # O_NONBLOCK: opening a named pipe must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def respond(path: Path, media_type: str, headers: Mapping[str, str]) -> Response | None:
    """Return an answer that sends a regular file, None if there is none. It blocks: call it on a thread."""
    descriptor = open_regular(path)
    return None if descriptor is None else FileResponse(descriptor, media_type, headers)


class FileResponse(Response):
    """Sends a file as it was when it was opened, even if it is replaced or deleted meanwhile."""

    def __init__(self, descriptor: int, media_type: str, headers: Mapping[str, str]) -> None:
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 closed when the answer was sent
        about = os.fstat(descriptor)
        self.size = about.st_size
        # A small file is read here, where blocking is allowed: another visit to a thread costs more than that.
        self._content = self._file.read() if self.size <= _CHUNK else None
        # Not the mtime, which packages and images set to one date for every version of a file.
        self.etag = f'"{about.st_ctime_ns:x}-{about.st_ino:x}-{about.st_size:x}"'
        super().__init__(None, 200, headers, media_type)
        self.headers.update({
            "x-content-type-options": "nosniff", "accept-ranges": "bytes", "etag": self.etag,
            "last-modified": formatdate(about.st_mtime, usegmt=True),
        })  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the part of it that was asked for (ASGI)."""
        start, end = self._select(Headers(scope=scope))
        with contextlib.closing(self._file):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                end = start
            while start < end:
                chunk = await self._read(start, min(_CHUNK, end - start))
                start += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _read(self, start: int, size: int) -> bytes:
        if self._content is not None:
            return self._content[start : start + size]
        chunk = await threads.run(os.pread, self._file.fileno(), size, start)
        if not chunk:
            raise OSError("the file became shorter while it was sent")
        return chunk

    def _select(self, request: Headers) -> tuple[int, int]:
        """Set the status and its headers; return the first byte to send and the one after the last."""
        if is_known(self.etag, request.get("if-none-match", "")):
            self.status_code = 304
            del self.headers["content-length"]
            return 0, 0
        start, end = 0, self.size
        selected = self._range(request)
        if selected is not None and selected[0] < selected[1]:
            self.status_code, (start, end) = 206, selected
            self.headers["content-range"] = f"bytes {start}-{end - 1}/{self.size}"
        elif selected is not None:
            self.status_code, end = 416, 0
            self.headers["content-range"] = f"bytes */{self.size}"
        self.headers["content-length"] = str(end - start)
        return start, end

    def _range(self, request: Headers) -> tuple[int, int] | None:
        """Return the range that is asked for, an empty one if the file has none of it; None for the whole file.

        Several ranges at once get the whole file, which RFC 9110 (section 14.2) allows.
        """
        match = _RANGE.fullmatch(request.get("range", "").replace(" ", ""))
        if match is None or match[0] == "bytes=-":
            return None
        condition = request.get("if-range", "")
        if condition and condition not in (self.etag, self.headers["last-modified"]):
            return None
        if not match[1]:
            return max(0, self.size - int(match[2])), self.size
        first = int(match[1])
        last = min(int(match[2]), self.size - 1) if match[2] else self.size - 1
        if match[2] and int(match[2]) < first:
            return None
        return (first, last + 1) if first <= last else (0, 0)


def is_known(etag: str, tags: str) -> bool:
    """Return whether the value of an If-None-Match names the ETag: the client has the content already."""
    return tags.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
