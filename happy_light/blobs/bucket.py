"""Files in an S3 bucket. Clients upload and download encrypted files by themselves, with signed forms and URLs.

Requests to the bucket run on threads of their own, so that a bucket that does not answer holds up nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import BinaryIO, Final, ParamSpec, TypeVar

from starlette.responses import Response

from happy_light import content_types
from happy_light.blobs import keys
from happy_light.blobs.daemon_threads import Busy, DaemonThreads
from happy_light.blobs.deletions import Deletions
from happy_light.blobs.s3_client import CONNECTIONS, S3Client
from happy_light.blobs.stored import BlobExists, BlobTooLarge, BucketError, StoredBlob, StoredFiles, UploadTarget
from happy_light.config import Bucket
from happy_light.errors import ServiceUnavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

REQUESTS_MAX: Final = 200  # requests that run or wait for a thread
_PUBLIC: Final = "public, max-age=31536000, immutable"
_PRIVATE: Final = "private, no-store"


class BucketBlobs:
    """The `Blobs` of a server with S3 settings. The keys in the bucket are those of keys.py."""

    def __init__(self, bucket: Bucket) -> None:
        self._s3 = S3Client(bucket)
        self._threads = DaemonThreads("bucket", CONNECTIONS, REQUESTS_MAX)
        self._check: asyncio.Future[None] | None = None
        self._deletions = Deletions(self._delete_now)

    async def _run(self, request: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Run a request on a thread. Raises BucketError."""
        try:
            return await self._threads.run(request, *arguments, **named)
        except Busy:
            raise BucketError(f"{REQUESTS_MAX} requests to the bucket run or wait already") from None

    # ------------------------------------------------------------------------------------ storing
    async def put(self, key: str, content: AsyncIterator[bytes], size_max: int, *, overwrite: bool = True) -> int:
        """Store `content`, which is in memory until it is complete; see Blobs.

        Two at once without `overwrite` may both succeed: not every S3 server can refuse the second.
        """
        keys.check(key)
        pieces, size = [], 0
        async for piece in content:
            size += len(piece)
            if size > size_max:
                raise BlobTooLarge(f"The file is larger than {size_max} bytes")
            pieces.append(piece)
        if not overwrite and await self.size(key) is not None:
            raise BlobExists(f"There is a file {key} already")
        media_type = content_types.content_type(key.rpartition("/")[2])
        cache_control = _PUBLIC if key.startswith("public/") else _PRIVATE
        try:
            await self._run(self._s3.put, key, b"".join(pieces), media_type, cache_control)
        except BucketError as error:
            log.error("%s", error)
            raise ServiceUnavailable("The server cannot store the file") from error
        return size

    async def upload_target(self, key: str, size_min: int, size_max: int) -> UploadTarget:
        """Return the form with which a client uploads a file of so many bytes."""
        keys.check(key)
        return self._s3.presigned_post(key, size_min, size_max)

    # ------------------------------------------------------------------------------------ reading
    async def download_url(self, key: str) -> str:
        """Return the URL from which a client downloads a file, which need not exist."""
        keys.check(key)
        return self._s3.presigned_get(key)

    async def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None if there is none. Raises ServiceUnavailable."""
        keys.check(key)
        try:
            found = await self._run(self._s3.find, key)
        except BucketError as error:
            log.error("%s", error)
            raise ServiceUnavailable("The server cannot look for the file") from error
        return None if found is None else found.size

    async def response(self, key: str, media_type: str, headers: Mapping[str, str]) -> None:
        """Return None: no file is sent from here."""
        keys.check(key)

    async def public_response(self, path: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        """Return None: clients read public files below S3_PUBLIC_URL."""
        return None

    def open(self, key: str) -> BinaryIO | None:
        """Open a file for reading; None if there is none. Raises InvalidKey, BucketError."""
        keys.check(key)
        return self._s3.read(key)

    def walk(self, prefix: str = "") -> Iterator[StoredBlob]:
        """Yield every file whose key begins with `prefix`; other objects are left out. Raises BucketError."""
        if prefix:
            keys.check_prefix(prefix)
        return (blob for blob in self._s3.walk(prefix) if keys.is_key(blob.key))

    def walk_owners(self) -> Iterator[StoredFiles]:
        """Yield what each session, project and account has. Raises BucketError."""
        for prefix, blobs in itertools.groupby(self.walk(), lambda blob: keys.prefix_of(blob.key)):
            size, modified = 0, 0.0
            for blob in blobs:
                size, modified = size + blob.size, max(modified, blob.modified)
            yield StoredFiles(*keys.owner_of(prefix), prefix, size, modified)

    async def check(self) -> None:
        """Raise ServiceUnavailable if the bucket does not answer. One request is under way at a time."""
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(self._run(self._s3.check))
        try:
            await asyncio.shield(self._check)
        except BucketError as error:
            raise ServiceUnavailable(str(error)) from error

    # ----------------------------------------------------------------------------------- deleting
    async def delete(self, key: str) -> None:
        """Delete a file if it exists, in the background."""
        keys.check(key)
        self._deletions.add(key)

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix`, in the background."""
        keys.check_prefix(prefix)
        self._deletions.add(prefix)

    def remove(self, key: str) -> None:
        """Delete a file now, if it exists. Raises BucketError."""
        keys.check(key)
        self._s3.delete(key)

    def remove_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix` now. Raises BucketError."""
        keys.check_prefix(prefix)
        for blob in list(self._s3.walk(prefix)):
            self._s3.delete(blob.key)

    async def _delete_now(self, name: str) -> None:
        await self._run(self.remove_prefix if name.endswith("/") else self.remove, name)

    @property
    def deletions_waiting(self) -> int:
        """Return how many keys and prefixes are still to be deleted."""
        return len(self._deletions)

    async def close(self, seconds: float) -> None:
        """Wait for `seconds` at most until what is to be deleted is."""
        await self._deletions.close(seconds)
        self._threads.stop()
