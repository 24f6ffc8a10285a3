"""`prune`: deletes what nobody needs any more, and gives the room back to the disk."""

from __future__ import annotations

import argparse

from happy_light.commands import output, progress_bar
from happy_light.config import Settings, setting_types

NAME = "prune"
HELP = "delete old sessions, old messages and leftovers"


def add(parser: argparse.ArgumentParser) -> None:
    """What is old."""
    parser.add_argument(
        "--sessions-inactive", type=_age, metavar="AGE", help="sessions that were inactive for so long, like 90d"
    )
    parser.add_argument("--messages-older", type=_age, metavar="AGE", help="messages that are older, like 180d")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _age(text: str) -> int:
    try:
        return setting_types.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} should be {error}") from None


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Prunes, in the running server if there is one. Raises StartError."""
    from happy_light.admin import control
    from happy_light.admin.prune import Pruned, Wanted

    what = Wanted(arguments.sessions_inactive, arguments.messages_older, arguments.dry_run)
    with progress_bar.bar("pruning") as progress:
        pruned = control.ask(settings, "prune", what, progress)
    assert isinstance(pruned, Pruned)
    lines = [
        ("Sessions", str(pruned.sessions)),
        ("Messages", str(pruned.messages)),
        ("Auth requests", str(pruned.auth_requests)),
        ("Files", f"{pruned.orphaned_folders} folders without an owner; {output.size(pruned.file_bytes)} in all"),
    ]
    if not pruned.dry_run:
        lines.append(("Given back", output.size(pruned.freed_bytes)))
    head = "Would be deleted:" if pruned.dry_run else "Deleted:"
    output.show(arguments, pruned, f"{head}\n{output.columns(lines)}")
