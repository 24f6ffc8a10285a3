"""`restore`: put an archive into the data folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from happy_light import wire
from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings


class Restored(wire.Outgoing):
    """What --json prints. `before`: the folder into which the previous content was moved."""

    data_dir: str
    entries: int
    secret: bool
    before: str | None


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, help="the archive")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder; it is kept beside it")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Restore; the server must not run. Raises OperatorError."""
    from happy_light.admin import backup_restore

    with progress_bar.bar("restoring") as progress:
        done = backup_restore.restore(settings, arguments.archive.expanduser(), arguments.force, progress)
    manifest, aside = done.manifest, done.before
    text = f"{settings.data_dir} is restored: {len(manifest.entries)} files, made by {manifest.version}."
    if settings.postgres is not None:
        text += f"\nThe database itself was not in the archive: pg_restore brings back {settings.postgres}."
    if aside is not None:
        text += f"\nThe previous content is in {aside}."
    if not manifest.secret and not settings.master_secret and not settings.secret_file.exists():
        text += f"\nThe archive has no master secret: set HANDY_MASTER_SECRET, or put it into {settings.secret_file}."
    if done.config is not None:
        text += f"\nThe archive's settings are in {done.config}; nothing reads them there. Take over what is needed."
    restored = Restored(
        str(settings.data_dir), len(manifest.entries), manifest.secret, None if aside is None else str(aside)
    )
    output.show(arguments, restored, text)


command = Command(name="restore", help="put an archive that `backup` made into the data folder", run=run, add=_add)
