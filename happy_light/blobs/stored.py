"""What is known about a stored file, and the ways in which storing one can fail."""

from __future__ import annotations

import msgspec


class UploadTarget(msgspec.Struct, frozen=True):
    """Where a client sends a new file to with POST, as a form with these `fields` before the file."""

    url: str
    fields: dict[str, str]


class StoredBlob(msgspec.Struct, frozen=True):
    """A stored file: its key, its size in bytes, and when it was written, in s since the epoch."""

    key: str
    size: int
    modified: float


class BlobTooLarge(Exception):
    """The content is larger than allowed; nothing was stored."""


class BlobExists(Exception):
    """The key is taken; nothing was stored."""
