"""Copy all files from one store to another: from folders into a bucket, or back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO, Final

import msgspec

from happy_light import threads
from happy_light.blobs import Blobs
from happy_light.blobs.stored import StoredBlob

AT_ONCE: Final = 8  # files under way
_PIECE: Final = 1024 * 1024  # bytes


class Copied(msgspec.Struct):
    """How many files were copied, and their bytes."""

    files: int = 0
    bytes: int = 0


async def copy(source: Blobs, target: Blobs, on_copied: Callable[[Copied], None] = lambda copied: None) -> Copied:
    """Copy every file of `source` to `target` under the same key, replacing what is there.

    `on_copied` is called after each few. Raises OSError if a file cannot be read, ServiceUnavailable if one cannot be
    stored, BlobTooLarge if one grew meanwhile; what was copied until then stays.
    """
    copied = Copied()
    found = source.walk()
    while some := await threads.run(lambda: list(itertools.islice(found, AT_ONCE))):
        ended = await asyncio.gather(*(_copy(source, target, blob) for blob in some), return_exceptions=True)
        for size in ended:
            if isinstance(size, BaseException):
                raise size
            if size is not None:
                copied.files += 1
                copied.bytes += size
        on_copied(copied)
    return copied


async def _copy(source: Blobs, target: Blobs, blob: StoredBlob) -> int | None:
    """Copy a file and return its size in bytes; None if it was deleted meanwhile."""
    file = await threads.run(source.open, blob.key)
    if file is None:
        return None
    with contextlib.closing(file):
        return await target.put(blob.key, _pieces(file), blob.size)


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await threads.run(file.read, _PIECE):
        yield piece
