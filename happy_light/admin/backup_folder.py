"""Backups in a folder: names of archives, which old ones to delete, and what a killed run has left.

An archive is called `happy-server-light-<id of the server>-<UTC time>.tar.gz`. A run writes to temporary files in the
same folder, whose names begin with a dot, and holds a shared lock of the folder; whoever gets the exclusive lock
knows that no run is under way, so that temporary files are left over from one that was killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Final

import msgspec

from happy_light import store
from happy_light.admin import server_id
from happy_light.admin.backup_archive import Manifest, write_archive
from happy_light.admin.progress import ProgressCallback
from happy_light.atomic_write import create_temporary, publish
from happy_light.config import Settings
from happy_light.errors import OperatorError

_TEMPORARY: Final = "happy-server-light-backup"
_LEFTOVER: Final = re.compile(rf"\.{_TEMPORARY}\.[0-9a-f]{{12}}\.(part|database(-journal|-wal|-shm)?)")
_NAME: Final = re.compile(r"happy-server-light-([0-9a-f]{8})-(\d{8}T\d{6}Z)(?:-(\d+))?\.tar\.gz")
_BLOCK: Final = 2048  # bytes; the size of a tar archive is a multiple of it, also modulo 2**32
_TRIES: Final = 1000  # archives of the same second


class Backup(msgspec.Struct, frozen=True):
    """What a run has made. `removed`: older archives that were deleted."""

    archive: Path
    manifest: Manifest
    removed: list[Path]


def back_up_to_file(
    settings: Settings, target: Path, with_secret: bool, overwrite: bool, progress: ProgressCallback
) -> Backup:
    """Write the archive `target`. Raises OperatorError, also if it exists and `overwrite` is false."""
    if target.exists() and not overwrite:
        raise OperatorError(f"{target} exists already. Name another file, or replace it with --force.")
    with _prepared(settings, target.parent), _temporary(target) as file:
        manifest = write_archive(settings, file, _snapshot(target.parent), with_secret, progress)
        try:
            publish(file, target, overwrite=overwrite)
        except FileExistsError:
            raise OperatorError(f"{target} exists by now; it was left alone.") from None
    return Backup(target, manifest, [])


def back_up_to_folder(
    settings: Settings, folder: Path, with_secret: bool, keep: int | None, progress: ProgressCallback
) -> Backup:
    """Write an archive into `folder`, then delete all but the newest `keep` of this server. Raises OperatorError."""
    with _prepared(settings, folder), _temporary(folder / _TEMPORARY) as file:
        manifest = write_archive(settings, file, _snapshot(folder), with_secret, progress)
        with store.open_for_reading(settings) as tx:
            id = server_id.read(tx)
        target = _publish_dated(file, folder, id)
    removed = archives(folder, id)[:-keep] if keep else []
    for path in removed:
        path.unlink(missing_ok=True)
    return Backup(target, manifest, removed)


def archives(folder: Path, id: str) -> list[Path]:
    """Return the whole archives of the server with this id, oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None and match[1] == id and _is_whole(path):
            found.append((match[2], int(match[3] or 1), path))
    return [path for _, _, path in sorted(found)]


def made_at(archive: Path) -> float:
    """Return the time (s) in the name of an archive."""
    import calendar

    match = _NAME.fullmatch(archive.name)
    assert match is not None
    return float(calendar.timegm(time.strptime(match[2], "%Y%m%dT%H%M%SZ")))


def _is_whole(path: Path) -> bool:
    """Whether a file ends like an archive: gzip's last 4 bytes are the size of the content, which tar pads."""
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            size = int.from_bytes(file.read()[4:], "little")
    except OSError:
        return False
    return size > 0 and size % _BLOCK == 0


def _publish_dated(file: BufferedWriter, folder: Path, id: str) -> Path:
    stem = f"happy-server-light-{id}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for number in range(1, _TRIES):
        target = folder / (f"{stem}.tar.gz" if number == 1 else f"{stem}-{number}.tar.gz")
        with contextlib.suppress(FileExistsError):
            publish(file, target, overwrite=False)
            return target
    raise OperatorError(f"{folder} has too many archives of this second.")


# ------------------------------------------------------------------------------------ temporary files
@contextlib.contextmanager
def _prepared(settings: Settings, folder: Path) -> Iterator[None]:
    """Check and make the folder, delete what killed runs left in it, and hold its lock. Raises OperatorError."""
    _refuse_own_data(settings, folder)
    with store.open_for_reading(settings):
        pass  # a database that is missing or not ours is said before a folder is made
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OperatorError(f"The folder {folder} cannot be used: {error.strerror}.") from error
    try:
        _delete_leftovers(folder, handle)
        yield
    except OSError as error:
        raise OperatorError(f"The backup in {folder} cannot be written: {error.strerror or error}.") from error
    finally:
        os.close(handle)


def _refuse_own_data(settings: Settings, folder: Path) -> None:
    place = folder.resolve()
    for own in (settings.data_dir, settings.files, settings.attachments):
        if place.is_relative_to(own.resolve()):
            raise OperatorError(f"{folder} lies in {own}, which is what is backed up; choose a folder outside of it.")


def _delete_leftovers(folder: Path, handle: int) -> None:
    """Delete temporary files, unless a run is under way. Afterwards the shared lock is held, where locks exist."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)


def _snapshot(folder: Path) -> Path:
    """Return a name for the copy of the database."""
    return folder / f".{_TEMPORARY}.{secrets.token_hex(6)}.database"


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[BufferedWriter]:
    """Yield a new file beside `target`, which is gone at the end unless it was published."""
    file = create_temporary(target.with_name(_TEMPORARY))
    try:
        yield file
    finally:
        file.close()
        Path(file.name).unlink(missing_ok=True)
