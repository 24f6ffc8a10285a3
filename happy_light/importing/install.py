"""Put a finished import into the data folder: files, secret and database are moved, and an interruption is made good.

What was there is kept under another name.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from happy_light import pending_moves, store
from happy_light.auth import master_secret
from happy_light.blobs import BucketError, FolderBlobs, blobs_of
from happy_light.config import Settings
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.importing.report import Report

DATABASE: Final = "database"
SECRET: Final = "master-secret"  # noqa: S105 the name of a file
_FOLDERS: Final = ("files", "attachments")
_UPLOAD_END: Final = 5.0  # s that the end of the connections to a bucket may take


def count_accounts(database: Path) -> int:
    """Return how many accounts the data folder's database has. Raises OperatorError if it is not one of ours."""
    if not database.exists():
        return 0
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (owner,) = connection.execute("PRAGMA application_id").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if owner != store.APPLICATION_ID and tables:
                raise OperatorError(
                    f"{database} was made by another program and stands where this server keeps its database; move it "
                    "away (with the -wal beside it, if there is one) and import it from there."
                )
            return int(connection.execute("SELECT count(*) FROM accounts").fetchone()[0]) if tables else 0
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise OperatorError(f"The database {database} cannot be read: {error}.") from error


def install(settings: Settings, staging: Path, report: Report) -> None:
    """Move what `staging` holds of files, attachments, secret and database into place. Raises OperatorError."""
    upload(settings, staging)
    moves: list[tuple[Path, Path]] = []
    if settings.database.exists():
        _checkpoint(settings.database)
        moves += _keep(settings.database, report)
    for suffix in ("-wal", "-shm"):  # of another database, which was deleted
        leftover = settings.database.with_name(settings.database.name + suffix)
        if leftover.exists():
            moves += _keep(leftover, report)
    moves = [*_folders(settings, staging), *moves, *_secret(settings, staging, report)]
    pending_moves.run(settings.data_dir, "an import", [*moves, (staging / DATABASE, settings.database)], staging)


def install_beside(settings: Settings, staging: Path, report: Report) -> None:
    """Move what `staging` holds of files, attachments and secret, but no database. Raises OperatorError."""
    upload(settings, staging)
    moves = [*_folders(settings, staging), *_secret(settings, staging, report)]
    pending_moves.run(settings.data_dir, "an import", moves, staging)


def upload(settings: Settings, staging: Path) -> None:
    """Put what `staging` holds of files into the bucket, if the settings name one. Raises OperatorError."""
    if settings.bucket is None:
        return
    try:
        asyncio.run(_upload(settings, staging))
    except (BucketError, ServiceUnavailable) as error:
        raise OperatorError(f"The files cannot be put into the bucket: {error}.") from error
    for name in _FOLDERS:
        shutil.rmtree(staging / name, ignore_errors=True)


async def _upload(settings: Settings, staging: Path) -> None:
    async def content(path: Path) -> AsyncIterator[bytes]:
        yield await asyncio.to_thread(path.read_bytes)

    blobs, staged = blobs_of(settings), FolderBlobs(*(staging / name for name in _FOLDERS))
    try:
        for blob in staged.walk():
            path = staged.path_of(blob.key)
            await blobs.put(blob.key, content(path), path.stat().st_size)
    finally:
        await blobs.close(_UPLOAD_END)


def _folders(settings: Settings, staging: Path) -> list[tuple[Path, Path]]:
    """Return the moves of the files."""
    return [(staging / name, place) for name, place in _places(settings).items() if (staging / name).is_dir()]


def _secret(settings: Settings, staging: Path, report: Report) -> list[tuple[Path, Path]]:
    """Return the moves of the secret, if there is one to move; another one that was there is kept."""
    secret = staging / SECRET
    if not secret.exists() or not _differs(settings.secret_file, secret):
        return []
    kept = _keep(settings.secret_file, report) if settings.secret_file.exists() else []
    return [*kept, (secret, settings.secret_file)]


def install_files(settings: Settings, staging: Path) -> None:
    """Move only what `staging` holds of files and attachments into place. Raises OSError.

    For an account that joins others: until the database is committed, nobody sees its files.
    """
    os.sync()  # before anything gets its name
    blobs, staged = FolderBlobs(settings.files, settings.attachments), FolderBlobs(*(staging / n for n in _FOLDERS))
    for blob in list(staged.walk()):
        target = blobs.path_of(blob.key)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.move(staged.path_of(blob.key), target)  # a rename, or a copy to another disk


def _places(settings: Settings) -> dict[str, Path]:
    return dict(zip(_FOLDERS, (settings.files, settings.attachments), strict=True))


def _differs(file: Path, staged: Path) -> bool:
    return not file.exists() or file.read_text("utf-8", "replace").strip() != master_secret.read(staged)


def _keep(file: Path, report: Report) -> list[tuple[Path, Path]]:
    """Return the move that keeps a file under another name, and note it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kept = pending_moves.unused(file.with_name(f"{file.name}.before-import-{stamp}"))
    report.notes.append(f"What was in {file.name} before is kept as {kept.name}.")
    return [(file, kept)]


def _checkpoint(database: Path) -> None:
    """Bring the write-ahead log into the database, so that the one file has all of it. Raises OperatorError."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise OperatorError(f"The database {database} cannot be set aside: {error}.") from error
    finally:
        connection.close()
    if busy:
        raise OperatorError(f"The database {database} is in use by another program; stop that first.")
