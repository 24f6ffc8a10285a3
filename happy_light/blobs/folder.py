"""Files in folders of this computer: stored whole or not at all, never read or written through a symbolic link.

What touches the disk runs on a thread, so that a slow disk does not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO, Final

from starlette.responses import Response

from happy_light import atomic_write, threads
from happy_light.blobs import file_response, keys
from happy_light.blobs.stored import BlobExists, BlobTooLarge, StoredBlob, StoredFiles
from happy_light.errors import ServiceUnavailable

log = logging.getLogger(__name__)

_NOT_BELOW: Final = re.compile(r"[\x00\\]|(^|/)\.\.(/|$)|^/|^[A-Za-z]:")


class FolderBlobs:
    """The `Blobs` of the light server: public files below `files`, encrypted ones below `attachments`."""

    def __init__(self, files: Path, attachments: Path) -> None:
        self.deletions_waiting: int = 0  # they are done at once
        self._roots: Final = {"files": files, "attachments": attachments}

    # ------------------------------------------------------------------------------------- places
    def path_of(self, key: str) -> Path:
        """Return the path of a key. Raises InvalidKey, and OSError if a folder on the way is a symbolic link."""
        return self._locate(keys.disk_path(key))

    def _locate(self, place: str) -> Path:
        """Return the path at `files/…` or `attachments/…`. Raises OSError if a folder on the way is a symbolic link."""
        top, *folders, name = place.split("/")
        path = self._roots[top]
        for folder in folders:
            path /= folder
            if path.is_symlink():
                raise OSError(errno.ELOOP, "There is a symbolic link among the folders of files", str(path))
        return path / name

    # ------------------------------------------------------------------------------------ storing
    async def put(self, key: str, content: AsyncIterator[bytes], size_max: int, *, overwrite: bool = True) -> int:
        """Store `content` with mode 0600, folders with 0700; see Blobs."""
        place = keys.disk_path(key)
        size = 0
        creating = asyncio.ensure_future(threads.run(self._create, place))
        try:
            with _logged(key):
                target, file = await asyncio.shield(creating)
        except asyncio.CancelledError:
            creating.add_done_callback(_discard_created)
            raise
        try:
            async for chunk in content:
                size += len(chunk)
                if size > size_max:
                    raise BlobTooLarge(f"The file is larger than {size_max} bytes")
                with _logged(key):
                    # A buffered file's lock keeps a write that goes on after a cancellation and the close below apart.
                    await threads.run(file.write, chunk)
            with _logged(key):
                await threads.run(_publish, file, target, overwrite)
        finally:
            _discard(file)
        return size

    def _create(self, place: str) -> tuple[Path, BufferedWriter]:
        """Create the folders and the temporary file of a new file; return its final path and the open file."""
        target = self._locate(place)
        created = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in created:
            folder.chmod(0o700)  # the mode above is for the last one only
            atomic_write.sync_folder(folder.parent)
        return target, atomic_write.create_temporary(target)

    async def upload_target(self, key: str, size_min: int, size_max: int) -> None:
        """Return None: clients upload through this server."""
        keys.check(key)

    async def download_url(self, key: str) -> None:
        """Return None: clients download from this server."""
        keys.check(key)

    # ------------------------------------------------------------------------------------ reading
    async def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None if there is none."""
        place = keys.disk_path(key)
        return await threads.run(self._size, place)

    def _size(self, place: str) -> int | None:
        try:
            about = self._locate(place).lstat()
        except OSError:
            return None
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    async def response(self, key: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        """Return an answer that sends a file; see Blobs."""
        place = keys.disk_path(key)
        return await threads.run(self._respond, place, media_type, headers)

    def _respond(self, place: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        try:
            path = self._locate(place)
        except OSError:
            return None
        return file_response.respond(path, media_type, headers)

    async def public_response(self, path: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        """Return an answer that sends any regular file below the public folder; see Blobs.

        Symbolic links are followed as long as they stay in the folder, since an operator may have made them.
        """
        if not path or _NOT_BELOW.search(path):
            return None
        return await threads.run(self._respond_public, path, media_type, headers)

    def _respond_public(self, path: str, media_type: str, headers: Mapping[str, str]) -> Response | None:
        try:
            root = self._roots["files"].resolve()
            file = (root / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # absent; not encodable; a loop of links
            return None
        return file_response.respond(file, media_type, headers) if file.is_relative_to(root) else None

    def open(self, key: str) -> BinaryIO | None:
        """Open a file for reading; None if there is none. Raises InvalidKey, OSError."""
        descriptor = file_response.open_regular(self.path_of(key))
        return None if descriptor is None else open(descriptor, "rb")  # noqa: PTH123 a descriptor, not a path

    def walk(self, prefix: str = "") -> Iterator[StoredBlob]:
        """Yield every file whose key begins with `prefix`; anything without a key is left out."""
        for top, folder in self._roots.items() if not prefix else [self._folder_of(prefix)]:
            for file, about in regular_files(folder):
                key = keys.key_at(f"{top}/{file.relative_to(self._roots[top]).as_posix()}")
                if key is not None:
                    yield StoredBlob(key, about.st_size, about.st_mtime)

    def walk_owners(self) -> Iterator[StoredFiles]:
        """Yield what each session, project and account has a folder for, with the time at which that changed."""
        for prefix in ("sessions/", "projects/", "public/users/"):
            top = "files" if prefix.startswith("public/") else "attachments"
            for folder in _subfolders(self._roots[top] / prefix):
                owner = f"{prefix}{folder.name}/"
                if keys.is_owner(owner):
                    size = sum(about.st_size for _, about in regular_files(folder))
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        yield StoredFiles(*keys.owner_of(owner), owner, size, folder.stat().st_mtime)

    async def check(self) -> None:
        """Return: the folders are made when they are needed."""

    def _folder_of(self, prefix: str) -> tuple[str, Path]:
        """Return which root a prefix is in, and its folder. Raises InvalidKey, and OSError for a symbolic link."""
        keys.check_prefix(prefix)
        top = "files" if prefix.startswith("public/") else "attachments"
        return top, self._locate(f"{top}/{prefix}x").parent

    # ----------------------------------------------------------------------------------- deleting
    async def delete(self, key: str) -> None:
        """Delete a file if it exists; see Blobs."""
        keys.check(key)
        await threads.run(_log_errors, self.remove, key)

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix`, and unfinished ones beside them; see Blobs."""
        keys.check_prefix(prefix)
        await threads.run(_log_errors, self.remove_prefix, prefix)

    def remove(self, key: str) -> None:
        """Delete a file now, if it exists. Raises InvalidKey, OSError."""
        self.path_of(key).unlink(missing_ok=True)

    def remove_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with `prefix` now, and unfinished ones. Raises InvalidKey, OSError."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder_of(prefix)[1])

    async def close(self, seconds: float) -> None:
        """Return: nothing is done in the background."""


def _log_errors(remove: Callable[[str], None], name: str) -> None:
    try:
        remove(name)
    except OSError as error:
        log.warning("cannot delete the files %s: %s", name, error.strerror)


@contextlib.contextmanager
def _logged(key: str) -> Iterator[None]:
    """Turn what the disk says while a file is stored into ServiceUnavailable."""
    try:
        yield
    except OSError as error:
        # A folder that disappeared was deleted meanwhile, with the session or account that it belonged to.
        level = logging.INFO if isinstance(error, FileNotFoundError) else logging.ERROR
        log.log(level, "cannot store the file %s: %s", key, error.strerror)
        raise ServiceUnavailable("The server cannot store the file") from error


def _publish(file: BufferedWriter, target: Path, overwrite: bool) -> None:
    try:
        atomic_write.publish(file, target, overwrite=overwrite)
    except FileExistsError:
        raise BlobExists(f"There is a file {target.name} already") from None


def _discard_created(creating: asyncio.Future[tuple[Path, BufferedWriter]]) -> None:
    """Remove the temporary file of a `put` that was cancelled while a thread created it."""
    if creating.exception() is None:
        _discard(creating.result()[1])


def _discard(file: BufferedWriter) -> None:
    """Close and remove a temporary file; after `publish` it has no name any more."""
    with contextlib.suppress(OSError):  # of a disk that is full: what is buffered cannot be written
        file.close()
    Path(file.name).unlink(missing_ok=True)


def regular_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files below a folder; links are not followed, and what disappears meanwhile is left out."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from regular_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            try:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are no symbolic links; none if it does not exist."""
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
