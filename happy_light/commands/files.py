"""`files`: copy the stored files between the folders of this computer and the S3 bucket of the settings."""

from __future__ import annotations

import argparse
import asyncio

from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.wire import Outgoing


class CopiedFiles(Outgoing):
    """What --json prints."""

    files: int
    bytes: int


def upload(settings: Settings, arguments: argparse.Namespace) -> None:
    """Copy the files in the folders into the bucket. Raises OperatorError."""
    _copy(settings, arguments, to_bucket=True)


def download(settings: Settings, arguments: argparse.Namespace) -> None:
    """Copy the files in the bucket into the folders. Raises OperatorError."""
    _copy(settings, arguments, to_bucket=False)


def _copy(settings: Settings, arguments: argparse.Namespace, to_bucket: bool) -> None:
    from happy_light.blobs import BlobTooLarge, FolderBlobs, blobs_of
    from happy_light.blobs.copying import copy
    from happy_light.errors import ServiceUnavailable

    if settings.bucket is None:
        raise OperatorError("No bucket is set; set S3_ENDPOINT (or S3_HOST), S3_BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY.")
    folders, bucket = FolderBlobs(settings.files, settings.attachments), blobs_of(settings)
    source, target = (folders, bucket) if to_bucket else (bucket, folders)
    try:
        with progress_bar.bar("copying files") as progress:
            copied = asyncio.run(copy(source, target, lambda copied: progress(copied.files, 0)))
    except (ServiceUnavailable, BlobTooLarge, OSError) as error:
        raise OperatorError(f"The files are not all copied ({error}); run the command again.") from error
    place = str(settings.bucket) if to_bucket else f"{settings.files} and {settings.attachments}"
    text = f"{copied.files} files ({output.size(copied.bytes)}) are copied to {place}; the originals are kept."
    output.show(arguments, CopiedFiles(copied.files, copied.bytes), text)


command = Command(
    name="files",
    help="copy the stored files into the S3 bucket of the settings, or back",
    subcommands=(
        Command(name="upload", help="copy them from the folders into the bucket", run=upload, add=add_json),
        Command(name="download", help="copy them from the bucket into the folders", run=download, add=add_json),
    ),
)
