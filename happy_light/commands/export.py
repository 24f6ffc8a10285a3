"""`export`: write one account as JSON Lines, for `import` on another server."""

from __future__ import annotations

import argparse
from pathlib import Path

from happy_light.atomic_write import atomic_file
from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", help="its id, public key (hex) or username")
    parser.add_argument("file", type=Path, help="where to write it; must not exist yet")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Write the file whole or not at all, while a server may run. Raises OperatorError."""
    from happy_light.importing import account_export

    file: Path = arguments.file
    if file.exists():
        raise OperatorError(f"{file} exists already; choose another name.")
    try:
        with atomic_file(file) as out:
            counts = account_export.write(settings, arguments.account, out)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror}.") from error
    output.show(
        arguments,
        {"file": str(file), "counts": dict(counts)},
        f"{file}: " + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items()),
    )


command = Command(
    name="export", help="write one account, still encrypted, into a file for import elsewhere", run=run, add=_add
)
