"""`prune`: deletes what nobody needs any more, and gives the room back to the disk."""

from __future__ import annotations

import argparse

from happy_light import values
from happy_light.commands import progress, screen
from happy_light.config import Settings

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
        return values.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} should be {error}") from None


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Prunes, in the running server if there is one. Raises StartError."""
    from happy_light import control
    from happy_light.upkeep.prune import Pruned, Wanted

    what = Wanted(arguments.sessions_inactive, arguments.messages_older, arguments.dry_run)
    with progress.bar("pruning") as tell:
        pruned = control.ask(settings, "prune", what, tell)
    assert isinstance(pruned, Pruned)
    lines = [
        ("Sessions", str(pruned.sessions)),
        ("Messages", str(pruned.messages)),
        ("Auth requests", str(pruned.auth_requests)),
        ("Files", f"{pruned.orphaned_folders} folders without an owner; {screen.size(pruned.file_bytes)} in all"),
    ]
    if not pruned.dry_run:
        lines.append(("Given back", screen.size(pruned.freed_bytes)))
    head = "Would be deleted:" if pruned.dry_run else "Deleted:"
    screen.show(arguments, pruned, f"{head}\n{screen.columns(lines)}")
