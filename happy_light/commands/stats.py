"""`stats`: what the server holds and does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings

if TYPE_CHECKING:
    from happy_light.admin.stats import RouteStats
    from happy_light.domains.backup_state import BackupResult


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the numbers of the running server, or of the folder. Raises OperatorError."""
    from happy_light.admin import client
    from happy_light.admin.stats import Stats

    stats = client.call(settings, "GET", "/admin/api/stats", answer=Stats)
    size = stats.bytes
    lines = [
        *((name.capitalize(), str(count)) for name, count in stats.records.items()),
        ("Database", f"{output.size(size.database)} ({output.size(size.free)} free), log {output.size(size.log)}"),
        ("Files", f"{output.size(size.files)} public, {output.size(size.attachments)} attachments"),
    ]
    server = stats.server
    if server is None:
        lines.append(("Server", "not running"))
    else:
        writer = server.writer
        lines += [
            ("Server", f"{stats.version}, up {server.uptime / 3600:.1f} h"),
            ("Sockets", ", ".join(f"{count} {kind}" for kind, count in server.sockets.items())),
            ("Requests", _requests(server.requests)),
            ("Calls", ", ".join(f"{count} {ending}" for ending, count in server.calls.items()) or "none"),
            ("Writes", f"{writer.writes} in {writer.commits} commits, {writer.waiting} waiting"),
            ("Backup", _backup(server.backup)),
            ("Commits", f"{writer.commit_ms_mean:g} ms on average, 99 % within {writer.commit_ms_p99:g} ms"),
        ]
    output.show(arguments, stats, output.columns(lines))


def _backup(last: BackupResult | None) -> str:
    if last is None:
        return "none was scheduled so far"
    outcome = f"{last.archive}" if last.ok else f"FAILED: {last.error}"
    return f"{output.day(last.at)}: {outcome}"


def _requests(routes: list[RouteStats]) -> str:
    classes: dict[str, int] = {}
    for route in routes:
        name = f"{route.status // 100}xx"
        classes[name] = classes.get(name, 0) + route.count
    return ", ".join(f"{count} {name}" for name, count in sorted(classes.items())) or "none"


command = Command(name="stats", help="show what the server holds and does", run=run, add=add_json)
