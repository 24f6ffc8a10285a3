"""Move a whole server of ours to another database: from a light folder to PostgreSQL, or back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from happy_light.atomic_write import write_atomic
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.config import PostgresUrl, Settings
from happy_light.data_dir import refuse_running
from happy_light.errors import OperatorError
from happy_light.importing import install, source_files
from happy_light.importing.report import ProgressCallback, Report
from happy_light.importing.staging import staging_of
from happy_light.importing.targets import Target, open_target
from happy_light.importing.transfer import transfer
from happy_light.store import ReadTransaction, open_readonly, require_postgres


@contextlib.contextmanager
def open_file(path: Path, settings: Settings) -> Iterator[ReadTransaction]:
    """Open the database of a light server that does not run. Raises OperatorError."""
    with contextlib.ExitStack() as opened:
        if path.parent.resolve() != settings.data_dir.resolve():  # else it is locked as the target's folder
            opened.enter_context(refuse_running(path.parent))
        yield opened.enter_context(open_readonly(path))


@contextlib.contextmanager
def open_postgres(url: PostgresUrl) -> Iterator[ReadTransaction]:
    """Open a PostgreSQL database of ours that no server uses. Raises OperatorError."""
    postgres = require_postgres()
    with postgres.open_readonly(url, alone=True) as tx:
        yield tx


def take_over(
    source: ReadTransaction,
    settings: Settings,
    secret: str,
    files: Path | None,
    progress: ProgressCallback,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Report:
    """Make everything of the source the content of the settings' database and data folder, or change nothing.

    `files` is the other server's data folder. A dry run does all but the last step. Raises OperatorError.
    """
    if master_secret.matches(source, Keys(secret)) is False:
        raise OperatorError(
            "The master secret is not the one that this database was made with; with it everyone would be signed out. "
            "Give the right one with --secret-file."
        )
    with staging_of(settings, dry_run) as staging, open_target(settings, staging) as target:
        report = Report()
        fill(source, target, settings, report, progress, dry_run=dry_run, force=force)
        in_place = files is not None and files.resolve() == settings.data_dir.resolve() and settings.bucket is None
        if files is not None and not in_place:
            source_files.stage(source_files.own_files(files), staging, target.tx, report, progress)
        if not dry_run:
            write_atomic(staging / install.SECRET, secret.encode())
            target.install(settings, staging, report)
    return report


def fill(
    source: ReadTransaction,
    target: Target,
    settings: Settings,
    report: Report,
    progress: ProgressCallback,
    *,
    dry_run: bool,
    force: bool,
) -> None:
    """Fill a target with a database of ours. Raises OperatorError if accounts are there, unless `force`."""
    there, place = target.replaced, settings.postgres or settings.data_dir
    if there and not force and not dry_run:
        kept = "" if settings.postgres else " (the old database is kept beside the new one)"
        raise OperatorError(
            f"{place} already has {there} account{'s' * (there > 1)}. --force replaces them{kept}; or choose another "
            f"{'database' if settings.postgres else 'folder with --data-dir'}."
        )
    transfer(source, target, report, progress)
    if there:
        report.notes.append(
            f"The {there} accounts in {place} {'would be' if dry_run else 'were'} replaced"
            f"{' (only with --force)' if not force else ''}."
        )
