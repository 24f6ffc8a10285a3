"""`prune`: delete what nobody needs any more, and give the space back to the disk."""

from __future__ import annotations

import argparse

from happy_light.commands import output, progress_bar
from happy_light.commands.arguments import add_json, duration
from happy_light.commands.command import Command
from happy_light.config import Settings


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sessions-inactive", type=duration, metavar="AGE", help="sessions that were inactive for so long, like 90d"
    )
    parser.add_argument("--messages-older", type=duration, metavar="AGE", help="messages that are older, like 180d")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Prune, in the running server if there is one. Raises OperatorError."""
    from happy_light.admin import client
    from happy_light.admin.prune import Pruned, PruneRequest

    request = PruneRequest(arguments.sessions_inactive, arguments.messages_older, arguments.dry_run)
    with progress_bar.bar("pruning") as progress:
        pruned = client.call(settings, "POST", "/admin/api/prune", request, answer=Pruned, progress=progress)
    lines = [
        ("Sessions", str(pruned.sessions)),
        ("Messages", str(pruned.messages)),
        ("Auth requests", str(pruned.auth_requests)),
        ("Idle devices", str(pruned.devices)),
        (
            "Files",
            f"{pruned.orphaned_folders} folders without an owner, {pruned.unfinished_uploads} unfinished uploads, "
            f"{pruned.unused_pictures} unused pictures; {output.size(pruned.file_bytes)} in all",
        ),
    ]
    if not pruned.dry_run:
        lines.append(("Given back", output.size(pruned.freed_bytes)))
    head = "Would be deleted:" if pruned.dry_run else "Deleted:"
    output.show(arguments, pruned, f"{head}\n{output.columns(lines)}")


command = Command(name="prune", help="delete old sessions, old messages and leftovers", run=run, add=_add)
