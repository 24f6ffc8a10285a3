"""Take over another server: all of it becomes this server, or nothing does."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from happy_light.admin import numbering
from happy_light.atomic_write import write_atomic
from happy_light.auth import devices, master_secret
from happy_light.auth.keys import Keys
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import checks, copy_tables, install, own_import, source_files
from happy_light.importing.report import ProgressCallback, Report
from happy_light.importing.sources import Source
from happy_light.importing.staging import staging_of
from happy_light.importing.tables import ESSENTIAL
from happy_light.importing.targets import finish_file, new_file, open_target
from happy_light.store import Transaction, open_readonly
from happy_light.store.sqlite.dialect import DIALECT


def take_over(
    source: Source,
    settings: Settings,
    secret: str,
    files: Path | None,
    progress: ProgressCallback,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Report:
    """Build a new database beside the data folder's own, check it, and move it into place.

    `files` is the other server's files folder. A dry run does all but the last step. Raises OperatorError, and
    nothing has changed then.
    """
    missing = ESSENTIAL - source.tables().keys()
    if missing:
        raise OperatorError(
            f"{source.name} is not a Happy server's database: it has no table {', '.join(sorted(missing))}."
        )
    with staging_of(settings, dry_run) as staging:
        there = 0 if settings.postgres else install.count_accounts(settings.database)
        if there and not force and not dry_run:
            raise OperatorError(
                f"{settings.data_dir} already has {there} account{'s' * (there > 1)}. --force replaces them (the old "
                "database is kept beside the new one); or choose another folder with --data-dir."
            )
        report = _build(source, staging, secret, files, progress, force)
        if there:
            report.notes.append(f"The {there} accounts in {settings.data_dir} {'would be' if dry_run else 'were'} "
                                f"replaced{' (only with --force)' if not force else ''}.")  # fmt: skip
        if settings.master_secret and settings.master_secret != secret:
            report.notes.append("HANDY_MASTER_SECRET is another secret: unset it before the server starts.")
        if not dry_run:
            write_atomic(staging / install.SECRET, secret.encode())
        if settings.postgres is not None:
            _move_on(settings, staging, report, progress, dry_run, force)
        elif not dry_run:
            install.install(settings, staging, report)
    return report


def _move_on(
    settings: Settings, staging: Path, report: Report, progress: ProgressCallback, dry_run: bool, force: bool
) -> None:
    """Move the database that was built to PostgreSQL, and what is beside it into the data folder."""
    moved = Report(notes=report.notes)  # the tables of the source stay those of the other server
    database = staging / install.DATABASE
    with open_readonly(database) as built, open_target(settings, staging) as target:
        own_import.fill(built, target, settings, moved, progress, dry_run=dry_run, force=force)
        if not dry_run:
            target.install(settings, staging, report)


def _build(
    source: Source, staging: Path, secret: str, files: Path | None, progress: ProgressCallback, force: bool
) -> Report:
    with new_file(staging / install.DATABASE) as target:
        tx = Transaction(target, DIALECT, now_ms())
        report = copy_tables.copy_all(source, target, progress)
        checks.check(source, target, report, progress)
        _check_secret(target, secret, report, force)
        master_secret.record(tx, Keys(secret))
        numbering.record_imported(tx)
        devices.record_unknown(tx, "import")
        if files is not None:
            source_files.stage(source_files.files_of_others(files), staging, tx, report, progress)
        elif "UploadedFile" in report.tables and report.tables["UploadedFile"].taken:
            report.notes.append("No files folder was given (--files): avatars and attachments are missing.")
        finish_file(target)
    return report


def _check_secret(target: sqlite3.Connection, secret: str, report: Report, force: bool) -> None:
    """Raise OperatorError if the secret opens none of the tokens that are sealed at rest, unless `force`."""
    tried, opened = copy_tables.try_secret(target, secret)
    if tried and not opened and not force:
        raise OperatorError(
            f"The master secret is not the other server's: it opens none of {tried} stored tokens, and everyone "
            "would be signed out. Give the right one with --secret-file (--force takes this one all the same)."
        )
    if opened < tried:
        report.notes.append(f"{tried - opened} of {tried} stored tokens cannot be read with this secret.")
    report.checks["sealed tokens"] = opened
