"""Backups: everything of a server in one archive (tar, gzip).

It contains `database.sqlite` (not of a PostgreSQL database, which pg_dump backs up), `files/…`, `attachments/…`, the
data folder's `happy-server-light.toml` if there is one, `master-secret` (unless it is left out) and, last,
`manifest.json` with the size and SHA-256 of each. Works on a connection of its own, whether or not a server runs.
backup_folder.py is about where archives lie;
backup_restore.py is the way back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedWriter
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from happy_light import __version__, clock, json_codec, store
from happy_light.admin.progress import ProgressCallback, part_of
from happy_light.admin.stored_files import files_in
from happy_light.atomic_write import TEMPORARY_SUFFIX
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.config import FILE_NAME, SETTINGS, Settings
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction
from happy_light.wire import Outgoing

DATABASE: Final = "database.sqlite"
SECRET: Final = "master-secret"  # noqa: S105 the name of a file
MANIFEST: Final = "manifest.json"
CONFIG: Final = FILE_NAME
FORMAT: Final = 1
_FOLDERS: Final = ("files", "attachments")
_CHUNK: Final = 1024 * 1024  # bytes
_PAGES: Final = 2048  # pages copied between two reports of the progress
_FLUSH_EVERY: Final = 16 * 1024 * 1024  # bytes
_MANIFEST_MAX: Final = 512 * 1024 * 1024  # bytes


class Entry(Outgoing):
    """A file of the archive."""

    path: str
    bytes: int
    sha256: str


class Manifest(Outgoing):
    """The contents of an archive, in its last file. `made_at` in ms."""

    version: str
    schema: int
    made_at: int
    secret: bool
    entries: list[Entry]
    format: int = FORMAT


# ----------------------------------------------------------------------------------------- writing
def secret_of(settings: Settings, tx: ReadTransaction) -> str | None:
    """Return the master secret that this database was made with, None if it is not known here."""
    candidates = [settings.master_secret]
    if settings.secret_file.is_file():
        candidates.append(master_secret.read(settings.secret_file))
    return next((secret for secret in candidates if secret and is_secret_of(secret, tx)), None)


def is_secret_of(secret: str, tx: ReadTransaction) -> bool:
    """Return whether `secret` belongs to this database; any does while no server has run on it."""
    return master_secret.matches(tx, Keys(secret)) is not False


def write_archive(
    settings: Settings, file: BufferedWriter, snapshot: Path, with_secret: bool, progress: ProgressCallback
) -> Manifest:
    """Write an archive to `file` and read it back. Raises OperatorError and OSError.

    `snapshot` is where the database is copied to in between; that file must not exist, and is removed. What
    `progress` raises ends the work.
    """
    try:
        with store.open_for_reading(settings) as tx:  # raises what is wrong with it
            secret = secret_of(settings, tx) if with_secret else None
            if with_secret and secret is None:
                raise OperatorError(
                    "The master secret of this database is not known here. Set HANDY_MASTER_SECRET as the server has "
                    "it, or leave the secret out with --no-secret and keep it yourself."
                )
        if settings.postgres is None:
            copy_database(settings.database, snapshot, part_of(progress, 0, 3))
        # After the database: the files that it refers to are on disk by now, and newer ones do no harm.
        manifest = _pack(file, settings, snapshot, secret, part_of(progress, 1, 3))
        file.flush()
        if read_archive(Path(file.name), part_of(progress, 2, 3)) != manifest:
            raise OperatorError("What was written reads back differently; do not trust that disk.")
    finally:
        for end in ("", "-journal"):
            snapshot.with_name(snapshot.name + end).unlink(missing_ok=True)
    return manifest


def copy_database(source: Path, target: Path, progress: ProgressCallback) -> None:
    """Copy the database as it is at one moment, while others write to it, and check it. Raises OperatorError."""
    with contextlib.ExitStack() as opened:
        handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        opened.callback(os.close, handle)  # after the connections: that would end the locks of SQLite on the file
        flush = _SteadyFlush(handle)

        def copied(_: int, left: int, total: int) -> None:
            flush((total - left) * page_size)
            progress(total - left, total)

        try:
            uri = f"{source.absolute().as_uri()}?mode=ro"
            reading = opened.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)))
            writing = opened.enter_context(contextlib.closing(sqlite3.connect(target, isolation_level=None)))
            # A reading transaction keeps one state; without it every write of others restarts the copy.
            reading.execute("BEGIN")
            page_size = int(reading.execute("PRAGMA page_size").fetchone()[0])
            reading.execute("SELECT 1 FROM meta").fetchall()
            reading.backup(writing, pages=_PAGES, progress=copied)
            writing.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, no -wal beside it
            check_database(writing, source)
        except sqlite3.Error as error:
            raise OperatorError(f"The database {source} cannot be copied: {error}.") from error


class _SteadyFlush:
    """Flushes a file to disk while it is written. All of it at the end would keep commits waiting for seconds."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._flushed = 0

    def __call__(self, size: int) -> None:
        """Flush, if much was written since the last time; the file has `size` bytes now."""
        if size - self._flushed >= _FLUSH_EVERY:
            os.fsync(self._handle)
            self._flushed = size


def check_database(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OperatorError if the database is damaged."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        first = " ".join(found[0].split())
        raise OperatorError(f"{path} is damaged ({first}); `happy-server-light doctor` shows more.")


def _pack(
    file: IO[bytes], settings: Settings, snapshot: Path, secret: str | None, progress: ProgressCallback
) -> Manifest:
    entries: list[Entry] = []
    found = [*([(DATABASE, snapshot)] if settings.postgres is None else []), *_files(settings)]
    if (config_file := _config_file(settings, secret is not None)) is not None:
        found.append((CONFIG, config_file))
    sizes = {path: path.stat().st_size for _, path in found if path.is_file()}
    total, done = sum(sizes.values()), 0
    flush = _SteadyFlush(file.fileno())

    def report(before: int, size: int) -> None:
        flush(file.tell())
        progress(min(before + size, total), total)  # a file that grows meanwhile does not lead past the total

    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name, path in found:
            try:
                source = path.open("rb")
            except FileNotFoundError:  # deleted since, with its session
                continue
            with source:
                entries.append(_add(tar, name, source, os.fstat(source.fileno()).st_size, partial(report, done)))
            done += entries[-1].bytes
        if secret is not None:
            entries.append(_add_bytes(tar, SECRET, secret.encode()))
        manifest = Manifest(__version__, store.SCHEMA_VERSION, clock.now_ms(), secret is not None, entries)
        _add_bytes(tar, MANIFEST, msgspec.json.format(json_codec.encode(manifest), indent=1))
    return manifest


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name, root in zip(_FOLDERS, (settings.files, settings.attachments), strict=True):
        for path in sorted(files_in(root)):
            if not path.name.endswith(TEMPORARY_SUFFIX):
                yield f"{name}/{path.relative_to(root).as_posix()}", path


def _config_file(settings: Settings, with_secret: bool) -> Path | None:
    """Return the configuration file of the data folder; without the secret only if there is none in it either."""
    import tomllib

    path = settings.data_dir / FILE_NAME
    if not path.is_file():
        return None
    secrets = {row.name for row in SETTINGS if row.secret}
    return path if with_secret or not secrets & tomllib.loads(path.read_text("utf-8")).keys() else None


class _HashedFile:
    """A file whose SHA-256 is computed while it is read."""

    def __init__(self, file: IO[bytes], on_growth: Callable[[int], None] = lambda size: None) -> None:
        self._file = file
        self._on_growth = on_growth
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.sha256.update(piece)
        self.size += len(piece)
        self._on_growth(self.size)
        return piece

    def entry(self, path: str) -> Entry:
        """Return the manifest's entry for what was read so far."""
        return Entry(path, self.size, self.sha256.hexdigest())


def _add(
    tar: tarfile.TarFile, name: str, source: IO[bytes], size: int, on_growth: Callable[[int], None] = lambda size: None
) -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    hashed = _HashedFile(source, on_growth)
    tar.addfile(info, cast("IO[bytes]", hashed))
    return hashed.entry(name)


def _add_bytes(tar: tarfile.TarFile, name: str, value: bytes) -> Entry:
    import io

    return _add(tar, name, io.BytesIO(value), len(value))


# ----------------------------------------------------------------------------------------- reading
def read_archive(archive: Path, progress: ProgressCallback, into: Path | None = None) -> Manifest:
    """Read a whole archive, compare it with its manifest, and unpack it if `into` is given. Raises OperatorError."""
    entries: list[Entry] = []
    manifest: Manifest | None = None
    size = archive.stat().st_size
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() and _is_known(member.name) else None
                if source is None:
                    raise OperatorError(f"{archive} is no backup of happy-server-light: it contains {member.name!r}.")
                if member.name == MANIFEST:
                    manifest = msgspec.json.decode(source.read(_MANIFEST_MAX), type=Manifest)
                    continue
                hashed = _HashedFile(source, lambda _: progress(min(raw.tell(), size), size))
                entries.append(_read(hashed, member.name, into))
    except (tarfile.TarError, EOFError, OSError, ValueError, msgspec.DecodeError) as error:
        raise OperatorError(f"The archive {archive} cannot be read: {error}.") from error
    progress(size, size)
    if manifest is None or manifest.entries != entries:
        raise OperatorError(f"The archive {archive} is damaged: its content does not match its manifest.")
    return manifest


def _read(source: _HashedFile, name: str, into: Path | None) -> Entry:
    if into is None:
        while source.read(_CHUNK):
            pass
        return source.entry(name)
    target = into / name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while piece := source.read(_CHUNK):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return source.entry(name)


def _is_known(name: str) -> bool:
    parts = name.split("/")
    if name in (DATABASE, SECRET, MANIFEST, CONFIG):
        return True
    return parts[0] in _FOLDERS and len(parts) > 1 and all(part not in ("", ".", "..") for part in parts)
