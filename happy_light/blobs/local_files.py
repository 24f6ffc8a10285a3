"""Files on disk: stored whole or not at all, sent in pieces with ranges and ETag, removed by folder.

What touches the disk runs on another thread, so that a slow one does not hold up everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from io import BufferedWriter
from pathlib import Path
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from happy_light.errors import ServiceUnavailable

log = logging.getLogger(__name__)

PART: Final = ".part"
"""How names of unfinished files end; they begin with a dot."""
_PIECE: Final = 256 * 1024  # bytes read from disk at a time
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


# ------------------------------------------------------------------------------------------ storing
async def store(pieces: AsyncIterator[bytes], target: Path) -> int:
    """Writes the pieces to `target` (mode 0600, folders 0700), replacing it at once. -> its size in bytes.

    When it returns, the file is on disk. If anything fails, or `pieces` ends with an exception, nothing
    is left. Raises Unavailable if the disk is full or cannot be written, and what `pieces` raises.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}{PART}")
    size = 0
    try:
        # A buffered file: its lock keeps a write that goes on after a cancellation and the close below apart.
        file = await asyncio.to_thread(_create, part)
        try:
            async for piece in pieces:
                size += len(piece)
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(_settle, file, part, target)
        finally:
            file.close()
            part.unlink(missing_ok=True)
    except OSError as error:
        # A folder that is gone was deleted meanwhile, by whoever owns it.
        level = logging.INFO if isinstance(error, FileNotFoundError) else logging.ERROR
        log.log(level, "%s cannot be written: %s", target.parent, error.strerror)
        raise ServiceUnavailable("The server cannot store the file") from error
    return size


def _create(part: Path) -> BufferedWriter:
    made = [folder for folder in part.parents if not folder.exists()]
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in made:
        folder.chmod(0o700)  # mkdir's mode counts for the last one only
        _sync_folder(folder.parent)
    return open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123


def _settle(file: BufferedWriter, part: Path, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def remove(path: Path) -> None:
    """Removes a file, or a folder with everything below; one that is not there is fine."""
    await asyncio.to_thread(remove_now, path)


def remove_now(path: Path) -> None:
    """As `remove`, on this thread. What cannot be removed stays for `prune` to find, and is logged."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


# ------------------------------------------------------------------------------------------ sending
async def send(path: Path, media_type: str, headers: Mapping[str, str]) -> Response | None:
    """An answer that streams a regular file; None if there is none. Symlinks are not followed."""
    return await asyncio.to_thread(open_now, path, media_type, headers)


def open_now(path: Path, media_type: str, headers: Mapping[str, str]) -> Response | None:
    """As `send`, on this thread."""
    try:
        # O_NONBLOCK: a named pipe must not hold the thread.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return _FileAnswer(handle, media_type, headers)


class _FileAnswer(Response):
    """The file as it was when it was opened, even if it is replaced or deleted while it is sent."""

    def __init__(self, handle: int, media_type: str, headers: Mapping[str, str]) -> None:
        self._file = open(handle, "rb", buffering=0)  # noqa: SIM115
        about = os.fstat(handle)
        self.size = about.st_size
        # A small file is read here, on the thread that opened it: another visit costs more than the reading.
        self._content = self._file.read() if self.size <= _PIECE else None
        # Not the mtime, which packages and images set to one date for every version of a file.
        self.etag = f'"{about.st_ctime_ns:x}-{about.st_ino:x}-{about.st_size:x}"'
        super().__init__(
            None, 200, {**headers, "x-content-type-options": "nosniff", "accept-ranges": "bytes", "etag": self.etag,
                        "last-modified": formatdate(about.st_mtime, usegmt=True)}, media_type,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked: dict[bytes, bytes] = dict(scope["headers"])
        start, end = 0, self.size
        if is_known(self.etag, asked.get(b"if-none-match", b"").decode("latin-1")):
            self.status_code, end = 304, 0
            del self.headers["content-length"]
        else:
            part = self._part(asked)
            if part is not None and part[0] < part[1]:
                self.status_code, (start, end) = 206, part
                self.headers["content-range"] = f"bytes {start}-{end - 1}/{self.size}"
            elif part is not None:
                self.status_code, end = 416, 0
                self.headers["content-range"] = f"bytes */{self.size}"
            self.headers["content-length"] = str(end - start)
        with contextlib.closing(self._file):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                end = start
            while start < end:
                if self._content is not None:
                    piece = self._content[start:end]
                else:
                    piece = await asyncio.to_thread(os.pread, self._file.fileno(), min(_PIECE, end - start), start)
                if not piece:
                    raise OSError("the file became shorter while it was sent")
                start += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _part(self, asked: dict[bytes, bytes]) -> tuple[int, int] | None:
        """First byte and the one after the last; equal if there are none; None for the whole file.

        Several ranges at once get the whole file, which HTTP allows.
        """
        match = _RANGE.fullmatch(asked.get(b"range", b"").decode("latin-1").replace(" ", ""))
        if match is None or match[0] == "bytes=-":
            return None
        condition = asked.get(b"if-range", b"").decode("latin-1")
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
    """Whether an If-None-Match names the ETag, so that the client need not get the content again."""
    return tags.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
