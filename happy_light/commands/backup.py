"""`backup`: write everything of a server into one archive, while it runs."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from happy_light import wire
from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json, positive
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

_DATED = re.compile(r"happy-server-light-\d{8}-\d{6}\.tar\.gz")


class Made(wire.Outgoing):
    """What --json prints. `removed`: older archives that --keep deleted."""

    archive: str
    bytes: int
    entries: int
    secret: bool
    removed: list[str]


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", help="a folder (a dated archive is made in it) or a file name")
    parser.add_argument("--keep", type=positive, metavar="N", help="in a folder: keep the newest N, delete older ones")
    parser.add_argument("--no-secret", action="store_true", help="leave the master secret out; keep it elsewhere")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Back up. Raises OperatorError."""
    from happy_light.admin import backup_archive

    given = Path(arguments.destination).expanduser()
    is_folder = given.is_dir() or arguments.destination.endswith("/")
    if arguments.keep and not is_folder:
        raise OperatorError(f"--keep needs a folder, and {given} is none.")
    if given.exists() and not is_folder and not given.is_file():  # the archive would take the place of a device
        raise OperatorError(f"{given} is neither a file nor a folder; name one of those.")
    target = given / time.strftime("happy-server-light-%Y%m%d-%H%M%S.tar.gz") if is_folder else given
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"The folder {target.parent} cannot be made: {error.strerror}.") from error
    with progress_bar.bar("backing up") as progress:
        manifest = backup_archive.write(settings, target, not arguments.no_secret, progress)
    removed = _delete_old(given, arguments.keep) if arguments.keep else []
    made = Made(str(target), target.stat().st_size, len(manifest.entries), manifest.secret, removed)
    text = f"{target}: {output.size(made.bytes)}, {made.entries} files, read back and verified."
    if settings.postgres is not None:
        text += f"\nThe database itself is not in it: pg_dump backs up the schema happy_light of {settings.postgres}."
    if manifest.secret:
        text += "\nIt contains the master secret: whoever has it can sign in as any account. Keep it safe."
    output.show(arguments, made, text)


def _delete_old(folder: Path, keep: int) -> list[str]:
    """Delete all but the newest archives that this command made in the folder. Return their paths."""
    archives = sorted(path for path in folder.iterdir() if _DATED.fullmatch(path.name))
    for path in archives[:-keep]:
        path.unlink()
    return [str(path) for path in archives[:-keep]]


command = Command(
    name="backup",
    help="write database, files and secret into one archive, also while the server runs",
    run=run,
    add=_add,
)
