"""Where the settings say that files are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from happy_light.blobs.folder import FolderBlobs
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.blobs.bucket import BucketBlobs


def blobs_of(settings: Settings) -> FolderBlobs | BucketBlobs:
    """Return the bucket of the settings, else the folders. Raises OperatorError if it needs boto3, which is missing."""
    bucket = settings.bucket
    if bucket is None:
        return FolderBlobs(settings.files, settings.attachments)
    try:
        from happy_light.blobs.bucket import BucketBlobs
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("boto3", "botocore"):
            raise
        raise OperatorError(
            "S3 needs a library that is not installed; install it with: pip install 'happy-server-light[full]'."
        ) from None
    return BucketBlobs(bucket)
