"""`backup`: write everything of a server into one archive, while it runs; check an archive."""

from __future__ import annotations

import argparse
from pathlib import Path

from happy_light import wire
from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json, positive
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

_VERIFY = "verify"


class Made(wire.Outgoing):
    """What --json prints. `removed`: older archives that --keep deleted."""

    archive: str
    bytes: int
    entries: int
    secret: bool
    removed: list[str]


class Verified(wire.Outgoing):
    """What `backup verify --json` prints. `made_at` in ms."""

    archive: str
    entries: int
    secret: bool
    version: str
    made_at: int


def _add(parser: argparse.ArgumentParser) -> None:
    usages = ("DESTINATION [--flag value …]", "verify ARCHIVE")
    parser.usage = "\n       ".join(f"happy-server-light backup {usage}" for usage in usages)
    parser.add_argument(
        "destination", nargs="+", help="a folder (an archive with server and time in its name is made in it) or a file "
        "name; `verify ARCHIVE` checks an archive that is there",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=positive, metavar="N", help="in a folder: keep the newest N of this server, delete older ones"
    )
    parser.add_argument("--no-secret", action="store_true", help="leave the master secret out; keep it elsewhere")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", action="store_true", help="print nothing if it succeeds, for cron")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Back up, or verify an archive. Raises OperatorError."""
    words: list[str] = arguments.destination
    if words[0] == _VERIFY and len(words) == 2:
        _verify(arguments, Path(words[1]).expanduser())
    elif len(words) == 1 and words[0] != _VERIFY:
        _back_up(settings, arguments, words[0])
    else:
        raise OperatorError(
            "Give one folder or file name, or `verify` and an archive (./verify is a file or folder of that name)."
        )


def _verify(arguments: argparse.Namespace, archive: Path) -> None:
    from happy_light.admin import backup_archive

    if not archive.is_file():
        raise OperatorError(f"There is no archive {archive}.")
    with progress_bar.bar("verifying") as progress:
        manifest = backup_archive.read_archive(archive, progress)
    found = Verified(str(archive), len(manifest.entries), manifest.secret, manifest.version, manifest.made_at)
    secret = "with" if manifest.secret else "without"
    text = f"{archive} is whole: {found.entries} files, {secret} the master secret, made {output.day(found.made_at)}."
    if not arguments.quiet:
        output.show(arguments, found, text)


def _back_up(settings: Settings, arguments: argparse.Namespace, destination: str) -> None:
    from happy_light.admin import backup_folder

    given = Path(destination).expanduser()
    is_folder = given.is_dir() or destination.endswith("/")
    if arguments.keep and not is_folder:
        raise OperatorError(f"--keep needs a folder, and {given} is none.")
    if given.exists() and not is_folder and not given.is_file():  # the archive would take the place of a device
        raise OperatorError(f"{given} is neither a file nor a folder; name one of those.")
    with progress_bar.bar("backing up") as progress:
        if is_folder:
            made = backup_folder.back_up_to_folder(settings, given, not arguments.no_secret, arguments.keep, progress)
        else:
            made = backup_folder.back_up_to_file(
                settings, given.absolute(), not arguments.no_secret, arguments.force, progress
            )
    manifest, removed = made.manifest, [str(path) for path in made.removed]
    result = Made(str(made.archive), made.archive.stat().st_size, len(manifest.entries), manifest.secret, removed)
    text = f"{made.archive}: {output.size(result.bytes)}, {result.entries} files, read back and verified."
    if settings.postgres is not None:
        text += f"\nThe database itself is not in it: pg_dump backs up the schema happy_light of {settings.postgres}."
    if settings.bucket is not None:
        text += f"\nThe files in the bucket {settings.bucket} are not in it: back up the bucket with its own tools."
    if manifest.secret:
        text += "\nIt contains the master secret: whoever has it can sign in as any account. Keep it safe."
    if not arguments.quiet:
        output.show(arguments, result, text)


command = Command(
    name="backup",
    help="write database, files and secret into one archive, also while the server runs; verify an archive",
    run=run,
    add=_add,
)
