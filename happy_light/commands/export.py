"""`export`: one account as JSON Lines, for `import` on another server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from happy_light.commands import output
from happy_light.config import Settings
from happy_light.errors import OperatorError

NAME = "export"
HELP = "write one account, still encrypted, into a file for import elsewhere"


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("account", help="its id, public key (hex) or username")
    parser.add_argument("file", type=Path, help="where to write it; must not exist yet")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Writes the file whole or not at all, while a server may run. Raises StartError."""
    from happy_light.importing import account_export

    file: Path = arguments.file
    if file.exists():
        raise OperatorError(f"{file} exists already; choose another name.")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:  # noqa: PTH123
            counts = account_export.write(settings, arguments.account, out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)
    output.show(
        arguments,
        {"file": str(file), "counts": dict(counts)},
        f"{file}: " + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items()),
    )
