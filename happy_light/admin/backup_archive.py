"""Backups: the whole of a server in one archive (tar, gzip), and back again.

In it: `database.sqlite`, `files/…`, `attachments/…`, `master-secret` (if wanted) and, last, `manifest.json`
with the size and SHA-256 of each. Works on its own connection, whether or not a server runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from happy_light import __version__, data_dir, store, wire
from happy_light.admin.account_admin import files_in
from happy_light.admin.context import ProgressCallback
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.blobs.local_files import PART
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.wire import Outgoing

DATABASE: Final = "database.sqlite"
SECRET: Final = "master-secret"  # noqa: S105 the name of a file
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_FOLDERS: Final = ("files", "attachments")
_PIECE: Final = 1024 * 1024  # bytes
_PAGES: Final = 2048  # pages copied between two looks at the progress
_MANIFEST_MAX: Final = 512 * 1024 * 1024  # bytes


class Entry(Outgoing):
    """A file of the archive."""

    path: str
    bytes: int
    sha256: str


class Manifest(Outgoing):
    """What an archive says of itself. `made_at` in ms."""

    version: str
    schema: int
    made_at: int
    secret: bool
    entries: list[Entry]
    format: int = FORMAT


# ----------------------------------------------------------------------------------------- backing up
def secret_of(settings: Settings, database: Path) -> str | None:
    """The master secret that this database was made with, if it is known here."""
    candidates = [settings.master_secret]
    if settings.secret_file.is_file():
        candidates.append(master_secret.read(settings.secret_file))
    return next((secret for secret in candidates if secret and fits(secret, database)), None)


def fits(secret: str, database: Path) -> bool:
    """Whether it is the secret of this database; one that never ran has none yet."""
    with store.look(database) as tx:
        return master_secret.matches(tx, Keys(secret)) is not False


def write(settings: Settings, target: Path, with_secret: bool, progress: ProgressCallback) -> Manifest:
    """Makes an archive and reads it back before it gets its name. Raises StartError; nothing is left then."""
    snapshot = target.with_name(f".{target.name}.database")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with store.look(settings.database):  # says what is wrong with it
            copy_database(settings.database, snapshot, progress)
        secret = None
        if with_secret:
            secret = secret_of(settings, snapshot)
            if secret is None:
                raise OperatorError(
                    "The master secret of this database is not known here. Set HANDY_MASTER_SECRET as the server has "
                    "it, or leave the secret out with --no-secret and keep it yourself."
                )
        # After the database: what it refers to is on disk by now, and what came later does no harm.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            manifest = _pack(file, settings, snapshot, secret, progress)
            file.flush()
            os.fsync(file.fileno())
        if _members(partial, progress) != manifest:
            raise OperatorError(
                f"What was written to {target.parent} reads back differently; that disk is not to be trusted."
            )
        partial.replace(target)
        handle = os.open(target.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    except OSError as error:
        raise OperatorError(f"The backup {target} cannot be written: {error.strerror or error}.") from error
    finally:
        for path in (snapshot, partial):
            path.unlink(missing_ok=True)
    return manifest


def copy_database(source: Path, target: Path, progress: ProgressCallback) -> None:
    """The database as it is at one moment, while others write to it; checked. Raises StartError."""
    target.unlink(missing_ok=True)
    target.touch(0o600)
    reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    writing = sqlite3.connect(target, isolation_level=None)
    try:
        # A transaction that reads holds the moment; without it every write of others starts the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT 1 FROM meta").fetchall()
        reading.backup(writing, pages=_PAGES, progress=lambda _, left, of: progress(of - left, of))
        writing.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, no -wal beside it
        check_database(writing, source)
    except sqlite3.Error as error:
        raise OperatorError(f"The database {source} cannot be copied: {error}.") from error
    finally:
        reading.close()
        writing.close()


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StartError if it is damaged."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise OperatorError(f"{path} is damaged ({found[0]}); `happy-server-light doctor` says more.")


def _pack(
    file: IO[bytes], settings: Settings, snapshot: Path, secret: str | None, progress: ProgressCallback
) -> Manifest:
    entries: list[Entry] = []
    found = [(DATABASE, snapshot), *_files(settings)]
    sizes = {path: path.stat().st_size for _, path in found if path.is_file()}
    total, done = sum(sizes.values()), 0
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name, path in found:
            try:
                source = path.open("rb")
            except FileNotFoundError:  # deleted a moment ago, with the session that it belonged to
                continue
            with source:
                entries.append(_add(tar, name, source, os.fstat(source.fileno()).st_size))
            done += entries[-1].bytes
            progress(done, total)
        if secret is not None:
            entries.append(_add_bytes(tar, SECRET, secret.encode()))
        manifest = Manifest(__version__, store.SCHEMA_VERSION, wire.now_ms(), secret is not None, entries)
        _add_bytes(tar, MANIFEST, msgspec.json.format(wire.encode(manifest), indent=1))
    return manifest


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name, root in zip(_FOLDERS, (settings.files, settings.attachments), strict=True):
        for path in sorted(files_in(root)):
            if not path.name.endswith(PART):
                yield f"{name}/{path.relative_to(root).as_posix()}", path


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.sha256.update(piece)
        self.size += len(piece)
        return piece

    def entry(self, path: str) -> Entry:
        """What was read so far."""
        return Entry(path, self.size, self.sha256.hexdigest())


def _add(tar: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    hashed = _Hashed(source)
    tar.addfile(info, cast("IO[bytes]", hashed))
    return hashed.entry(name)


def _add_bytes(tar: tarfile.TarFile, name: str, value: bytes) -> Entry:
    import io

    return _add(tar, name, io.BytesIO(value), len(value))


# ------------------------------------------------------------------------------------- reading back
def _members(archive: Path, progress: ProgressCallback, into: Path | None = None) -> Manifest:
    """Reads an archive through, and unpacks it if `into` is given. Raises StartError if anything is amiss."""
    entries: list[Entry] = []
    manifest: Manifest | None = None
    size = archive.stat().st_size
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() and _is_ours(member.name) else None
                if source is None:
                    raise OperatorError(f"{archive} is no backup of happy-server-light: {member.name!r} is in it.")
                if member.name == MANIFEST:
                    manifest = msgspec.json.decode(source.read(_MANIFEST_MAX), type=Manifest)
                    continue
                entries.append(_read(_Hashed(source), member.name, into))
                progress(raw.tell(), size)
    except (tarfile.TarError, EOFError, OSError, ValueError, msgspec.DecodeError) as error:
        raise OperatorError(f"The archive {archive} cannot be read: {error}.") from error
    if manifest is None or manifest.entries != entries:
        raise OperatorError(f"The archive {archive} is damaged: its content is not what its manifest says.")
    return manifest


def _read(source: _Hashed, name: str, into: Path | None) -> Entry:
    if into is None:
        while source.read(_PIECE):
            pass
        return source.entry(name)
    target = into / name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return source.entry(name)


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    if name in (DATABASE, SECRET, MANIFEST):
        return True
    return parts[0] in _FOLDERS and len(parts) > 1 and all(part not in ("", ".", "..") for part in parts)


# ---------------------------------------------------------------------------------------- restoring
def restore(settings: Settings, archive: Path, force: bool, progress: ProgressCallback) -> tuple[Manifest, Path | None]:
    """Puts an archive into the data folder; checks everything before it touches anything there.

    -> the manifest, and where what was there before is now. Raises StartError.
    """
    if not archive.is_file():
        raise OperatorError(f"There is no archive {archive}.")
    data_dir.create_private_dir(settings.data_dir)
    with data_dir.lock_data_dir(settings):
        there = [path for path in _places(settings) if path.is_file() or any(files_in(path))]
        if there and not force:
            raise OperatorError(
                f"{settings.data_dir} is not empty ({there[0].name}). With --force what is there is kept in a folder "
                "of its own and replaced; or choose another folder with --data-dir."
            )
        staging = settings.data_dir / ".restoring"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            manifest = _members(archive, progress, staging)
            _check(settings, manifest, staging)
            aside = _move_aside(settings, there, manifest.secret)
            _move_in(settings, staging)
        except OSError as error:
            raise OperatorError(f"{settings.data_dir} cannot be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return manifest, aside


def _places(settings: Settings) -> list[Path]:
    database = settings.database
    beside = [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    return [*beside, settings.files, settings.attachments]


def _check(settings: Settings, manifest: Manifest, staging: Path) -> None:
    if manifest.format > FORMAT or manifest.schema > store.SCHEMA_VERSION:
        raise OperatorError(
            f"The archive was made by happy-server-light {manifest.version} (schema {manifest.schema}, this one knows "
            f"{store.SCHEMA_VERSION}); install that version or a newer one."
        )
    database = staging / DATABASE
    if not database.is_file():
        raise OperatorError("The archive has no database.")
    connection = sqlite3.connect(database)
    try:
        check_database(connection, database)
    except sqlite3.Error as error:
        raise OperatorError(f"The archive's database cannot be used: {error}.") from error
    finally:
        connection.close()
    store.prepare(database)
    if settings.master_secret and not fits(settings.master_secret, database):
        raise OperatorError(
            "HANDY_MASTER_SECRET is not the secret of the server that was backed up; everyone would be signed out. "
            + ("Unset it: the archive has the right one." if manifest.secret else "Set it to that server's.")
        )
    own = settings.secret_file
    if (
        not manifest.secret
        and not settings.master_secret
        and own.is_file()
        and not fits(master_secret.read(own), database)
    ):
        raise OperatorError(f"{own} is not the secret of the server that was backed up; put the right one there.")
    if manifest.secret and not fits((staging / SECRET).read_text("utf-8"), database):
        raise OperatorError("The secret in the archive is not that of its database.")


def _move_aside(settings: Settings, there: list[Path], with_secret: bool) -> Path | None:
    if with_secret and settings.secret_file.exists():
        there = [*there, settings.secret_file]
    if not there:
        return None
    aside = settings.data_dir / time.strftime("before-restore-%Y%m%d-%H%M%S")
    aside.mkdir(mode=0o700)
    for path in there:
        shutil.move(path, aside / path.name)
    return aside


def _move_in(settings: Settings, staging: Path) -> None:
    moves: list[tuple[str, Path]] = [("files", settings.files), ("attachments", settings.attachments)]
    # The database is last: as long as it is not there, a server that starts has nothing to serve wrongly.
    for name, place in [*moves, (SECRET, settings.secret_file), (DATABASE, settings.database)]:
        if (staging / name).exists():
            if place.is_dir():  # empty, or it would have been moved aside
                shutil.rmtree(place)
            shutil.move(staging / name, place)
