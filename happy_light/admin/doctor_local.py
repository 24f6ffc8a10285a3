"""The local part of `doctor`: data folder, database, master secret, files, clock, disk."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from happy_light import certificates, store
from happy_light.admin import clock_check, doctor_bucket, doctor_postgres, doctor_redis, leftovers, numbering
from happy_light.admin.finding import Finding
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.blobs import Blobs, BucketError, blobs_of
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.store import ReadTransaction

SPACE_MIN = 512 * 1024 * 1024  # bytes
DRIFT_MAX = 120.0  # s
_SHOWN = 5  # examples in a text


def check(settings: Settings) -> Iterator[Finding]:
    """Run every local check."""
    yield from folder(settings)
    if settings.tls_cert is not None and settings.tls_key is not None:
        yield from tls(settings.tls_cert, settings.tls_key)
    if settings.redis_url is not None:
        yield from doctor_redis.check(settings.redis_url)
    place = settings.database.parent
    if settings.postgres is None and place.is_dir():  # else what follows says that there is no database
        yield space(shutil.disk_usage(place).free, _size(settings.database), place)
    try:
        with store.open_for_reading(settings) as tx:
            if settings.postgres is not None:
                yield from doctor_postgres.check(tx, settings.postgres)
                yield from contents(tx, settings)
            else:
                yield from database(tx, settings)
    except OperatorError as error:
        cure = "Start the server once, or restore a backup: happy-server-light restore ARCHIVE"
        if settings.postgres is not None:
            cure = "Look at DATABASE_URL, at PostgreSQL's own log, and start the server once."
        yield Finding("database", "problem", str(error), cure)


def folder(settings: Settings) -> Iterator[Finding]:
    """Check modes and owner: whoever can read the folder can sign in as any account.

    What is in the folder has to belong to the folder's owner, as whom the server runs.
    """
    beside = [settings.database.with_name(settings.database.name + end) for end in ("", "-wal", "-shm")]
    owner = settings.data_dir.stat().st_uid
    wrong = []
    for path, mode in ((settings.data_dir, "700"), *((path, "600") for path in (settings.secret_file, *beside))):
        if not path.exists():
            continue
        found = path.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            wrong.append(path)
            text = f"{path} has mode {stat.S_IMODE(found.st_mode):o}: other users of this computer can read it."
            yield Finding("modes", "problem", text, f"chmod {mode} '{path}'")
        if found.st_uid != owner:
            wrong.append(path)
            text = f"{path} belongs to user {found.st_uid}, but its folder to user {owner}, as whom the server runs."
            yield Finding("modes", "problem", text, f"chown {owner} '{path}'")
    if os.geteuid() not in (0, owner):
        wrong.append(settings.data_dir)
        text = f"{settings.data_dir} belongs to user {owner}, but this is user {os.geteuid()}."
        yield Finding("modes", "problem", text, "Run commands as that user, or as root.")
    if not wrong:
        yield Finding("modes", "ok", f"{settings.data_dir} is accessible to its owner only.")


def tls(certificate: Path, key: Path) -> Iterator[Finding]:
    """Check how long the certificate is valid and who can read its key."""
    try:
        found = certificates.problems(certificate, key)
    except OSError as error:
        found = [f"{error.filename} cannot be read: {error.strerror}"]
    for text in found:
        yield Finding(
            "certificate", "problem", f"{text[0].upper()}{text[1:]}.", "The server takes a new one by itself."
        )
    if not found:
        yield Finding("certificate", "ok", f"The certificate {certificate} is valid, and its key is private.")


def space(free: int, needed: int, where: Path) -> Finding:
    """Check the free space (bytes); a backup or a migration copies the database, which has `needed` bytes."""
    text = f"{free // 2**20:,} MiB are free on the disk of {where}."
    if free < max(SPACE_MIN, needed):
        cure = "Make room: happy-server-light prune --sessions-inactive 90d, or a larger disk."
        return Finding("space", "problem", f"Only {text}", cure)
    return Finding("space", "ok", text)


def database(tx: ReadTransaction, settings: Settings) -> Iterator[Finding]:
    """Check the file, and what is in it."""
    damage = [row[0] for row in tx.fetch_all(f"PRAGMA integrity_check({_SHOWN})")]
    restore = "Stop the server and restore a backup: happy-server-light restore ARCHIVE --force"
    if damage != ["ok"]:
        yield Finding("integrity", "problem", f"{settings.database} is damaged: {'; '.join(damage)}.", restore)
        return
    yield Finding("integrity", "ok", f"{settings.database} is intact.")
    yield _listed(
        "references", "Every reference has its row.", "rows refer to rows that do not exist", restore,
        [f"{row[0]} row {row[1]} to {row[2]}" for row in tx.fetch_all("PRAGMA foreign_key_check")],
    )  # fmt: skip
    if tx.fetch_all("PRAGMA auto_vacuum")[0][0] != 2:
        cure = f"Stop the server, then: sqlite3 '{settings.database}' 'PRAGMA auto_vacuum = 2; VACUUM'"
        yield Finding("vacuum", "warning", "The database file cannot become smaller.", cure)
    yield from contents(tx, settings)


def contents(tx: ReadTransaction, settings: Settings) -> Iterator[Finding]:
    """Check numbering, secret, clock and files."""
    yield numbering.check(tx)
    yield _secret(tx, settings)
    yield clock(tx, now_ms())
    try:
        yield from _files(tx, settings, blobs_of(settings))
    except BucketError as error:
        cure = "Look at the S3_ settings, and at the log of the S3 server."
        yield Finding("bucket", "problem", f"{error}.", cure)


def _files(tx: ReadTransaction, settings: Settings, blobs: Blobs) -> Iterator[Finding]:
    """Check that every file that the database knows is there, and no other. Raises BucketError."""
    if settings.bucket is not None:
        yield from doctor_bucket.check(settings.bucket)
    yield _leftovers(tx, settings, blobs)
    stored = {blob.key for blob in blobs.walk()}
    pictures = tx.fetch_all(
        "SELECT avatar_ref FROM sessions WHERE avatar_ref IS NOT NULL UNION ALL "
        "SELECT avatar_ref FROM projects WHERE avatar_ref IS NOT NULL"
    )
    yield _listed(
        "pictures", "Every active picture is there.", "active pictures are missing", "Restore them from a backup.",
        [ref for (ref,) in pictures if ref not in stored],
    )  # fmt: skip
    yield _listed(
        "files", "Every public file is there.", "public files are missing", "Restore them from a backup.",
        [path for (path,) in tx.fetch_all("SELECT path FROM uploaded_files") if path not in stored],
    )  # fmt: skip


def _listed(name: str, good: str, bad: str, cure: str, found: list[str]) -> Finding:
    """Return a finding about a list of faults, which should be empty."""
    if not found:
        return Finding(name, "ok", good)
    shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
    return Finding(name, "problem", f"{len(found)} {bad}: {shown}.", cure)


def _secret(tx: ReadTransaction, settings: Settings) -> Finding:
    file = settings.secret_file
    secret, source = settings.master_secret, "HANDY_MASTER_SECRET"
    if not secret:
        try:
            secret, source = master_secret.read(file) if file.exists() else "", str(file)
        except OperatorError as error:
            return Finding("secret", "problem", str(error), "Set HANDY_MASTER_SECRET, or repair the file.")
    if not secret:
        text = f"There is no master secret: HANDY_MASTER_SECRET is not set here and {file} is not there."
        return Finding("secret", "problem", text, "Set it as the server has it; a new one would sign everyone out.")
    if master_secret.matches(tx, Keys(secret)) is False:
        text = f"{source} is not the secret that the database was made with; the server will not start with it."
        return Finding("secret", "problem", text, f"Put the old secret back (HANDY_MASTER_SECRET or {file}).")
    return Finding("secret", "ok", f"The master secret ({source}) is that of the database.")


def clock(tx: ReadTransaction, now: int) -> Finding:
    """Check that nothing in the database is younger than `now` (ms)."""
    newest = clock_check.newest_time(tx)
    if newest > now + DRIFT_MAX * 1000:
        text = f"The clock is {(newest - now) // 1000} s behind the newest entry of the database."
        return Finding("clock", "problem", text, "Set the clock, and let it be kept (timedatectl set-ntp true).")
    return Finding("clock", "ok", "The clock is not behind the database.")


def _leftovers(tx: ReadTransaction, settings: Settings, blobs: Blobs) -> Finding:
    found = [files.prefix for files in leftovers.without_owner(tx, leftovers.old_files(blobs))]
    found += [path.name for path in leftovers.unfinished_uploads(settings)]
    finding = _listed(
        "leftovers", "No files are left of deleted sessions, projects and accounts, or of unfinished uploads.",
        "files or folders are left of deleted sessions, projects and accounts, or of unfinished uploads",
        "happy-server-light prune", found,
    )  # fmt: skip
    if found:
        finding.level = "warning"
    return finding


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
