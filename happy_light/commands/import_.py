"""`import`: take over another Happy server, or one exported account."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.commands.progress_bar import Bar
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.importing.report import ProgressCallback, Report
    from happy_light.importing.sources import Source
    from happy_light.store import ReadTransaction

_DATABASES = ("happy-server-light.sqlite", "happier-server-light.sqlite")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a data folder or SQLite file, postgresql://user:password@host/database, or a file of export"
    )
    parser.add_argument("--secret", help="the other server's master secret")
    parser.add_argument(
        "--secret-file", type=Path, help="the file with it (else HANDY_MASTER_SECRET, or beside SOURCE)"
    )
    parser.add_argument(
        "--files",
        type=Path,
        help="its files folder, or its data folder if it is one of ours (default: beside SOURCE)",
    )
    parser.add_argument("--dry-run", action="store_true", help="do everything but keep nothing, and say what would be")
    parser.add_argument("--force", action="store_true", help="replace what is already there")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Import and print what was done. Raises OperatorError, and nothing has changed then."""
    started = time.monotonic()
    with contextlib.closing(Bar()) as bar:
        try:
            name, report = _import(settings, arguments, bar)
        except OSError as error:
            raise OperatorError(f"{error.filename or settings.data_dir} cannot be used: {error.strerror}.") from error
    seconds = round(time.monotonic() - started, 1)
    output.show(
        arguments,
        _summary(name, report, arguments.dry_run, seconds),
        _text(name, report, arguments.dry_run, seconds, settings),
    )


def _import(settings: Settings, arguments: argparse.Namespace, progress: ProgressCallback) -> tuple[str, Report]:
    if arguments.secret is not None and arguments.secret_file is not None:
        raise OperatorError("Give either --secret or --secret-file.")
    if arguments.files is not None and not arguments.files.is_dir():
        raise OperatorError(f"The files folder {arguments.files} does not exist.")
    if arguments.source.startswith(("postgres://", "postgresql://")):
        return _from_postgres(settings, arguments, progress)
    path = _database(Path(arguments.source).expanduser())
    kind = _kind(path)
    if kind == "other":
        return _account(settings, arguments, path, progress)
    if settings.postgres is None and path.resolve() == settings.database.resolve() and path.exists():
        raise OperatorError(
            f"{path} stands where this server keeps its own database; move it away (with the -wal beside it, if "
            "there is one) and import it from there."
        )
    if kind == "own":
        from happy_light.importing import own_import

        with own_import.open_file(path, settings) as tx:
            return str(path), _own(settings, arguments, tx, path.parent, progress)
    from happy_light.importing.sqlite import Sqlite

    with contextlib.closing(Sqlite(path)) as source:
        return source.name, _server(settings, arguments, source, path.parent, progress)


def _from_postgres(settings: Settings, arguments: argparse.Namespace, progress: ProgressCallback) -> tuple[str, Report]:
    """Import our tables in a PostgreSQL database; or the original's, if it has none of ours or they are the target."""
    from happy_light.importing import own_import
    from happy_light.importing.postgres import Postgres

    with contextlib.closing(Postgres(arguments.source)) as source:
        same = settings.postgres is not None and source.is_same(settings.postgres)
        if same or "schema=public" in arguments.source or not source.has_ours():
            return source.name, _server(settings, arguments, source, None, progress)
    with own_import.open_postgres(source.url) as tx:
        return source.name, _own(settings, arguments, tx, settings.data_dir, progress)


def _server(
    settings: Settings, arguments: argparse.Namespace, source: Source, beside: Path | None, progress: ProgressCallback
) -> Report:
    """Take over another kind of server, whose files and secret may lie beside its database."""
    from happy_light.importing import server_import

    files = arguments.files
    if files is None and beside is not None and (beside / "files").is_dir():
        files = beside / "files"
    secret, where = _secret(settings, arguments, beside)
    report = server_import.take_over(source, settings, secret, files, progress, **_flags(arguments))
    report.notes.insert(0, f"The master secret is from {where}.")
    return report


def _own(
    settings: Settings, arguments: argparse.Namespace, source: ReadTransaction, folder: Path, progress: ProgressCallback
) -> Report:
    """Move a server of ours, whose data folder is `folder` unless --files names another."""
    from happy_light.importing import own_import

    files: Path = arguments.files or folder
    secret, where = _secret(settings, arguments, files)
    report = own_import.take_over(source, settings, secret, files, progress, **_flags(arguments))
    report.notes.insert(0, f"The master secret is from {where}.")
    return report


def _secret(settings: Settings, arguments: argparse.Namespace, beside: Path | None) -> tuple[str, str]:
    from happy_light.importing import source_secret

    folders = [] if beside is None else [beside]
    return source_secret.find(arguments.secret, arguments.secret_file, settings.master_secret, folders)


def _flags(arguments: argparse.Namespace) -> dict[str, bool]:
    return {"dry_run": arguments.dry_run, "force": arguments.force}


def _account(
    settings: Settings, arguments: argparse.Namespace, path: Path, progress: ProgressCallback
) -> tuple[str, Report]:
    from happy_light.importing import account_import, source_secret

    given = None
    if arguments.secret is not None or arguments.secret_file is not None:
        given, _ = source_secret.find(arguments.secret, arguments.secret_file, None, ())
    return str(path), account_import.import_account(path, settings, given, progress, **_flags(arguments))


def _database(path: Path) -> Path:
    """Return the file to import for a path. Raises OperatorError."""
    if path.is_dir():
        found = next((path / name for name in _DATABASES if (path / name).is_file()), None)
        if found is not None:
            return found
        if (path / "PG_VERSION").exists() or (path / "pglite").is_dir():
            raise OperatorError(
                f"{path} is PGlite's folder, which only PGlite may open: serve it with npx pglite-server (npm "
                "@electric-sql/pglite-socket) and import postgresql://postgres@127.0.0.1:5432/postgres?sslmode=disable"
            )
        raise OperatorError(f"{path} holds no database of a light server; name the SQLite file itself.")
    if not path.is_file():
        raise OperatorError(f"{path} does not exist.")
    return path


def _kind(path: Path) -> str:
    """Return "own" for a database of this program, "sqlite" for another one, "other" for any other file."""
    import sqlite3

    from happy_light.store import APPLICATION_ID

    try:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                return "other"
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (owner,) = connection.execute("PRAGMA application_id").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise OperatorError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return "own" if owner == APPLICATION_ID else "sqlite"


# ---------------------------------------------------------------------------------------- the summary
def _summary(name: str, report: Report, dry_run: bool, seconds: float) -> dict[str, Any]:
    return {
        "source": name,
        "dryRun": dry_run,
        "seconds": seconds,
        "tables": {
            table: {"found": counts.found, "taken": counts.taken, "left": dict(counts.left)}
            for table, counts in report.tables.items()
        },
        "files": report.files,
        "renumbered": report.renumbered,
        "checks": report.checks,
        "notes": report.notes,
    }


def _text(name: str, report: Report, dry_run: bool, seconds: float, settings: Settings) -> str:
    lines = [f"{'Would take' if dry_run else 'Took'} over {name} ({seconds} s):", ""]
    for counts in report.tables.values():
        left = ", ".join(f"{count:,} {reason}" for reason, count in counts.left.items())
        lines.append(f"  {counts.shown:<26} {counts.taken:>11,}{f'   left out: {left}' if left else ''}")
    for kind, count in report.files.items():
        lines.append(f"  {'files: ' + kind:<26} {count:>11,}")
    lines += ["", *report.notes]
    lines.append("Checked: " + ", ".join(f"{count:,} {what}" for what, count in report.checks.items()) + ".")
    lines.append(
        "Nothing was changed (dry run)."
        if dry_run
        else f"It is in {settings.postgres or settings.data_dir}; start the server."
    )
    return "\n".join(lines)


command = Command(name="import", help="take over another Happy server, or an exported account", run=run, add=_add)
