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


class StoredFiles(msgspec.Struct, frozen=True):
    """All files of one session, project or account.

    `table` is that of the owner, `owner` its id, `prefix` what the keys begin with; bytes, and the time of the last
    change in s since the epoch.
    """

    table: str
    owner: str
    prefix: str
    size: int
    modified: float


class BucketError(OSError):
    """A bucket did not do what it was asked for; the text says why."""


class BlobTooLarge(Exception):
    """The content is larger than allowed; nothing was stored."""


class BlobExists(Exception):
    """The key is taken; nothing was stored."""
