"""From a finished import to the data folder: files first, then the secret, then, with one rename, the database.

Until that rename the folder holds its old database. Files that came before it belong to no session that
this database knows, so nobody sees them.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from happy_light import store
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing.copy_tables import Progress, Report

_ATTACHMENT: Final = re.compile(r"[0-9a-fA-F-]{36}\.enc")
STAGING: Final = ".importing"


def accounts_in(database: Path) -> int:
    """How many accounts the target has. Raises StartError if it is not a database of ours."""
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


# -------------------------------------------------------------------------------------------- files
def stage_files(source: Path, staging: Path, target: sqlite3.Connection, report: Report, progress: Progress) -> None:
    """Copies public files and attachments of sessions that are there into `staging`. Raises StartError."""
    public = attachments = size = 0
    left: list[str] = []
    for file in _walk(source):
        place = _place(file.relative_to(source), target)
        if place is None:
            left.append(str(file.relative_to(source)))
            continue
        copy = staging / place
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            copy.chmod(0o600)
        except OSError as error:
            raise OperatorError(f"The file {file} cannot be copied: {error.strerror}.") from error
        size += copy.stat().st_size
        if place.parts[0] == "files":
            public += 1
        else:
            attachments += 1
        progress("files", public + attachments, 0)
    report.files = {"public": public, "attachments": attachments, "bytes": size, "left": len(left)}
    if left:
        report.notes.append(
            f"{len(left)} files belong to nobody who was taken over, or are of an unknown kind, and were left: "
            f"{', '.join(left[:3])}{', …' if len(left) > 3 else ''}."
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Every plain file below; links are not followed, since they may lead anywhere."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _place(path: Path, target: sqlite3.Connection) -> Path | None:
    """Where a file of theirs lies with us, relative to the data folder; None: not ours to take."""
    match path.parts:
        case ("public", *_, _):
            return Path("files") / path
        case ("sessions", session_id, "attachments", name) if _ATTACHMENT.fullmatch(name):
            known = target.execute("SELECT 1 FROM sessions WHERE id = ?", (session_id,)).fetchone()
            return None if known is None else Path("attachments") / "sessions" / session_id / name
    return None


# ------------------------------------------------------------------------------------- into place
def put(settings: Settings, staging: Path, secret: str | None, report: Report) -> None:
    """Moves what `staging` holds into the data folder; `secret` None: leave the secret as it is.

    What stood there before is kept beside it under another name.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    put_files(settings, staging)
    if settings.database.exists():
        _fold(settings.database)
        _keep(settings.database, stamp, report)
    if secret is not None and _differs(settings.secret_file, secret):
        _keep(settings.secret_file, stamp, report)
        write_secret(settings.secret_file, secret)
    for name in ("-wal", "-shm"):
        settings.database.with_name(settings.database.name + name).unlink(missing_ok=True)
    (staging / "database").replace(settings.database)
    settings.database.chmod(0o600)
    _sync(settings.database.parent)


def home(settings: Settings, place: Path) -> Path:
    """`files/…` or `attachments/…` -> where that is on this server."""
    return (settings.files if place.parts[0] == "files" else settings.attachments).joinpath(*place.parts[1:])


def put_files(settings: Settings, staging: Path) -> None:
    """Moves what lies in the staged `files` and `attachments` to their places."""
    os.sync()  # everything staged is on disk before anything gets its name
    for kind in ("files", "attachments"):
        if (staging / kind).is_dir():
            for file in _walk(staging / kind):
                place = home(settings, file.relative_to(staging))
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.move(file, place)  # a rename, or a copy where attachments/ is another disk


def _differs(file: Path, secret: str) -> bool:
    return not file.exists() or file.read_text("utf-8", "replace").strip() != secret


def write_secret(file: Path, secret: str) -> None:
    """The file holds this secret, readable by its owner only; never half of it."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secret.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(file)


def _keep(file: Path, stamp: str, report: Report) -> None:
    """A second name for the file, before the first one is given to another."""
    if file.exists():
        kept = file.with_name(f"{file.name}.before-import-{stamp}")
        kept.unlink(missing_ok=True)
        try:
            os.link(file, kept)
        except OSError:  # a file system without links
            shutil.copy2(file, kept)
        report.notes.append(f"What was in {file.name} before is kept as {kept.name}.")


def _fold(database: Path) -> None:
    """The write-ahead log goes into the database, so that the one file is all of it."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise OperatorError(f"The database {database} cannot be set aside: {error}.") from error
    finally:
        connection.close()
    if busy:
        raise OperatorError(f"The database {database} is in use by another program; stop that first.")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
