"""Stored files that nothing refers to.

Each kind is searched in two steps: `old_…` lists the files, which may take long, and needs no transaction; the other
asks the database about those.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from happy_light.atomic_write import TEMPORARY_SUFFIX
from happy_light.blobs import Blobs, StoredBlob, StoredFiles
from happy_light.blobs import keys as blob_keys
from happy_light.config import Settings
from happy_light.store import ReadTransaction

UNOWNED_AGE: Final = 3600.0  # s without a change, after which files without an owner and unfinished ones may go
UNUSED_AGE: Final = 86_400.0  # s after which an uploaded picture may go that is not the active one


def old_files(blobs: Blobs) -> list[StoredFiles]:
    """Return what each session, project and account has, if it did not change for UNOWNED_AGE. Raises OSError."""
    limit = time.time() - UNOWNED_AGE
    return [found for found in blobs.walk_owners() if found.modified < limit]


def without_owner(tx: ReadTransaction, found: list[StoredFiles]) -> list[StoredFiles]:
    """Return those whose session, project or account is gone."""
    assert {files.table for files in found} <= {"sessions", "projects", "accounts"}
    return [
        files for files in found if tx.fetch_one(f"SELECT 1 FROM {files.table} WHERE id = ?", (files.owner,)) is None
    ]


def old_pictures(blobs: Blobs) -> list[StoredBlob]:
    """Return the pictures of sessions and projects that were uploaded before UNUSED_AGE. Raises OSError."""
    limit = time.time() - UNUSED_AGE
    return [blob for blob in blobs.walk() if blob_keys.is_picture(blob.key) and blob.modified < limit]


def not_active(tx: ReadTransaction, pictures: list[StoredBlob]) -> list[StoredBlob]:
    """Return the pictures that are not the active one of their session or project."""
    found = []
    for picture in pictures:
        table, owner = blob_keys.owner_of(blob_keys.prefix_of(picture.key))
        assert table in ("sessions", "projects")
        if tx.fetch_one(f"SELECT 1 FROM {table} WHERE id = ? AND avatar_ref = ?", (owner, picture.key)) is None:
            found.append(picture)
    return found


def unfinished_uploads(settings: Settings) -> list[Path]:
    """Return the temporary files of uploads that a crash ended and that did not change for UNOWNED_AGE."""
    limit = time.time() - UNOWNED_AGE
    return [
        file
        for place in (settings.attachments, settings.files)
        for file in place.rglob(f".*{TEMPORARY_SUFFIX}")
        if file.is_file() and file.stat().st_mtime < limit
    ]
