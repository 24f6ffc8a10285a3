"""The folders of stored files, by account and by session: where they are, and what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from happy_light.blobs import Blobs, InvalidKey
from happy_light.config import Settings


def session_files(settings: Settings) -> Path:
    """Return the folder that has a folder of attachments and pictures for each session."""
    return settings.attachments / "sessions"


def project_files(settings: Settings) -> Path:
    """Return the folder that has a folder of pictures for each project."""
    return settings.attachments / "projects"


def account_files(settings: Settings) -> Path:
    """Return the folder that has a folder of public files for each account."""
    return settings.files / "public" / "users"


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`; none if it does not exist."""
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def files_in(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`; symbolic links are left out."""
    yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size_of(folder: Path) -> int:
    """Return the bytes of all files below `folder`. A file that is deleted meanwhile counts 0."""
    total = 0
    for path in files_in(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def delete(folder: Path) -> int:
    """Delete `folder` if it exists. Return the bytes that its files had."""
    size = size_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size


async def stored_size(blobs: Blobs, prefix: str) -> int:
    """Return the bytes of all files under a prefix such as `sessions/<id>/`; 0 if it is not one."""
    return await asyncio.to_thread(_sum_sizes, blobs, prefix)


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
