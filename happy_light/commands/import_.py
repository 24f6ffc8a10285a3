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

_DATABASES = ("happy-server-light.sqlite", "happier-server-light.sqlite")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a SQLite file (or its folder), postgresql://user:password@host/database, or a file of export"
    )
    parser.add_argument("--secret", help="the other server's master secret")
    parser.add_argument(
        "--secret-file", type=Path, help="the file with it (else HANDY_MASTER_SECRET, or beside SOURCE)"
    )
    parser.add_argument("--files", type=Path, help="the other server's files folder (default: files beside SOURCE)")
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
    from happy_light.importing import server_import, source_secret

    if settings.postgres is not None:
        raise OperatorError("Nothing can be imported into PostgreSQL yet; import into a folder, without DATABASE_URL.")
    flags = {"dry_run": arguments.dry_run, "force": arguments.force}
    if arguments.secret is not None and arguments.secret_file is not None:
        raise OperatorError("Give either --secret or --secret-file.")
    if arguments.files is not None and not arguments.files.is_dir():
        raise OperatorError(f"The files folder {arguments.files} does not exist.")
    source: Source
    beside: list[Path] = []
    if arguments.source.startswith(("postgres://", "postgresql://")):
        from happy_light.importing.postgres import Postgres

        source = Postgres(arguments.source)
    else:
        path = _database(Path(arguments.source).expanduser())
        if not _is_sqlite(path):
            return _account(settings, arguments, path, progress, flags)
        from happy_light.importing.sqlite import Sqlite

        if path.resolve() == settings.database.resolve() and path.exists():
            raise OperatorError(
                f"{path} stands where this server keeps its own database; move it away (with the -wal beside it, if "
                "there is one) and import it from there."
            )
        source, beside = Sqlite(path), [path.parent]
    try:
        files = arguments.files or next((folder / "files" for folder in beside if (folder / "files").is_dir()), None)
        found, where = source_secret.find(arguments.secret, arguments.secret_file, settings.master_secret, beside)
        report = server_import.take_over(source, settings, found, files, progress, **flags)
        report.notes.insert(0, f"The master secret is from {where}.")
        return source.name, report
    finally:
        source.close()


def _account(
    settings: Settings, arguments: argparse.Namespace, path: Path, progress: ProgressCallback, flags: dict[str, bool]
) -> tuple[str, Report]:
    from happy_light.importing import account_import, source_secret

    given = None
    if arguments.secret is not None or arguments.secret_file is not None:
        given, _ = source_secret.find(arguments.secret, arguments.secret_file, None, ())
    return str(path), account_import.import_account(path, settings, given, progress, **flags)


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


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error


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
    lines.append("Nothing was changed (dry run)." if dry_run else f"It is in {settings.data_dir}; start the server.")
    return "\n".join(lines)


command = Command(name="import", help="take over another Happy server, or an exported account", run=run, add=_add)
