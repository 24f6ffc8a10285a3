"""Stored files: public ones and encrypted ones, behind one interface.

keys.py            the names that files are stored under
stores.py          where the settings say that files are kept:
folder.py          in folders of this computer,
bucket.py          or in an S3 bucket
file_response.py   the answer that sends a file
copying.py         from one store to another
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import BinaryIO, Protocol

from starlette.responses import Response

from happy_light.blobs.folder import FolderBlobs
from happy_light.blobs.keys import InvalidKey
from happy_light.blobs.stored import BlobExists, BlobTooLarge, BucketError, StoredBlob, StoredFiles, UploadTarget
from happy_light.blobs.stores import blobs_of


class Blobs(Protocol):
    """Files by key. Coroutines are for requests; the other methods block and are for what runs on a thread of its own.

    Every method raises InvalidKey for a key or prefix that keys.py does not accept, before anything is touched.
    """

    @property
    def deletions_waiting(self) -> int:
        """Return how many deletions are not done yet."""
        ...

    async def put(self, key: str, content: AsyncIterator[bytes], size_max: int, *, overwrite: bool = True) -> int:
        """Store `content` under `key` and return its size in bytes; it is on disk then, and nothing is left otherwise.

        Raises BlobTooLarge past `size_max` bytes, BlobExists if `overwrite` is false and the key is taken,
        ServiceUnavailable if it cannot be written, and what `content` raises.
        """
        ...

    async def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None if there is none."""
        ...

    async def response(self, key: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        """Return an answer that sends a file, with ranges, ETag and HEAD; None if there is none."""
        ...

    async def public_response(self, path: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        """Return an answer that sends the public file at the decoded path of a URL below /files/.

        Returns None if there is none, also for a path that leaves the public files; any path may be given.
        """
        ...

    async def upload_target(self, key: str, size_min: int, size_max: int) -> UploadTarget | None:
        """Return where a client uploads a file of so many bytes by itself; None if it uploads through this server."""
        ...

    async def download_url(self, key: str) -> str | None:
        """Return where a client downloads a file from; None if it downloads from this server."""
        ...

    async def check(self) -> None:
        """Raise ServiceUnavailable if files can be neither stored nor read now."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a file if it exists, perhaps later. What cannot be deleted is logged, and `prune` finds it."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix`, such as `sessions/<id>/`, as `delete` does."""
        ...

    async def close(self, seconds: float) -> None:
        """Finish what `delete` and `delete_prefix` were asked for, in `seconds` at most."""
        ...

    def remove(self, key: str) -> None:
        """Delete a file now, if it exists. Raises OSError."""
        ...

    def remove_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix` now. Raises OSError."""
        ...

    def walk(self, prefix: str = "") -> Iterator[StoredBlob]:
        """Yield every file whose key begins with `prefix`, in no order. Raises OSError."""
        ...

    def walk_owners(self) -> Iterator[StoredFiles]:
        """Yield what each session, project and account has, in no order. Raises OSError."""
        ...

    def open(self, key: str) -> BinaryIO | None:
        """Open a file for reading; None if there is none. Raises OSError."""
        ...


__all__ = [
    "BlobExists",
    "BlobTooLarge",
    "Blobs",
    "BucketError",
    "FolderBlobs",
    "InvalidKey",
    "StoredBlob",
    "StoredFiles",
    "UploadTarget",
    "blobs_of",
]
