"""Requests to an S3 bucket, over boto3. Each blocks, and raises BucketError if the bucket refuses or does not answer.

Presigned URLs and forms need no request: they are signed here, and work for EXPIRES seconds.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from happy_light.blobs.stored import BucketError, StoredBlob, UploadTarget
from happy_light.config import Bucket

EXPIRES: Final = 900  # s
CONNECTIONS: Final = 8
_CONNECT_TIMEOUT: Final = 3  # s
_READ_TIMEOUT: Final = 10  # s without a byte
_ATTEMPTS: Final = 2
_ABSENT: Final = ("404", "NoSuchKey", "NotFound")


class S3Client:
    """One bucket. May be used on several threads at once."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=bucket.endpoint,
            region_name=bucket.region,
            aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},  # needs no name in the DNS for each bucket
                connect_timeout=_CONNECT_TIMEOUT,
                read_timeout=_READ_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                max_pool_connections=CONNECTIONS,
                # Other servers than Amazon's do not know the checksums that boto3 adds by itself.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    # --------------------------------------------------------------------------- what clients do by themselves
    def presigned_post(self, key: str, size_min: int, size_max: int) -> UploadTarget:
        """Return a form that uploads a file of so many bytes under this key and no other (docs/protocol.md, 3.5)."""
        conditions = [["content-length-range", size_min, size_max]]
        form = self._client.generate_presigned_post(self._bucket.name, key, Conditions=conditions, ExpiresIn=EXPIRES)
        return UploadTarget(form["url"], form["fields"])

    def presigned_get(self, key: str) -> str:
        """Return a URL from which the file can be downloaded."""
        target = {"Bucket": self._bucket.name, "Key": key}
        return str(self._client.generate_presigned_url("get_object", Params=target, ExpiresIn=EXPIRES))

    # -------------------------------------------------------------------------------------------- requests
    def check(self) -> None:
        """Ask whether the bucket is there and lets these keys in."""
        with self._translated("cannot be reached"):
            self._client.head_bucket(Bucket=self._bucket.name)

    def put(self, key: str, content: bytes, media_type: str, cache_control: str) -> None:
        """Store a file."""
        with self._translated(f"does not store {key}"):
            self._client.put_object(
                Bucket=self._bucket.name, Key=key, Body=content, ContentType=media_type, CacheControl=cache_control
            )

    def find(self, key: str) -> StoredBlob | None:
        """Return what is known about a file, None if there is none."""
        with self._translated(f"does not tell about {key}"):
            try:
                found = self._client.head_object(Bucket=self._bucket.name, Key=key)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            return StoredBlob(key, found["ContentLength"], found["LastModified"].timestamp())

    def read(self, key: str) -> BinaryIO | None:
        """Return the content of a file, None if there is none. All of it is in memory."""
        with self._translated(f"does not send {key}"):
            try:
                found = self._client.get_object(Bucket=self._bucket.name, Key=key)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            with found["Body"] as body:
                return io.BytesIO(body.read())

    def delete(self, key: str) -> None:
        """Delete a file if it exists."""
        with self._translated(f"does not delete {key}"):
            self._client.delete_object(Bucket=self._bucket.name, Key=key)

    def walk(self, prefix: str) -> Iterator[StoredBlob]:
        """Yield every object whose key begins with `prefix`, in the order of keys."""
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=prefix))
        while True:
            with self._translated("does not list its files"):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", ()):
                yield StoredBlob(found["Key"], found["Size"], found["LastModified"].timestamp())

    @contextlib.contextmanager
    def _translated(self, problem: str) -> Iterator[None]:
        """Raise BucketError for the errors of boto3."""
        try:
            yield
        except ClientError as error:
            raise BucketError(f"The bucket {self._bucket} {problem}: {_code(error)}") from error
        except BotoCoreError as error:
            raise BucketError(f"The bucket {self._bucket} {problem}: {error}") from error


def _code(error: ClientError) -> str:
    """Return S3's name of an error, such as NoSuchKey; after HEAD, which has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", "an unknown error"))
