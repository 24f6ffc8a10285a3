"""Stored files of sessions, projects and accounts: how large they are, and deleting them with their owner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from happy_light import threads
from happy_light.blobs import Blobs, InvalidKey


def files_in(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`; symbolic links are left out."""
    yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


async def stored_size(blobs: Blobs, prefix: str) -> int:
    """Return the bytes of all files under a prefix such as `sessions/<id>/`; 0 if it is not one, or on an error."""
    return await threads.run(_sum_sizes, blobs, prefix)


async def delete_stored(blobs: Blobs, prefix: str) -> int:
    """Delete all files under a prefix and return their bytes. An id that cannot be part of a key has no files."""
    size = await stored_size(blobs, prefix)
    with contextlib.suppress(InvalidKey):
        await blobs.delete_prefix(prefix)
    return size


def _sum_sizes(blobs: Blobs, prefix: str) -> int:
    try:
        return sum(blob.size for blob in blobs.walk(prefix))
    except (InvalidKey, OSError):
        return 0
