"""`doctor`: look for everything that can be wrong with a server, and print what to do about it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.wire import Success

if TYPE_CHECKING:
    from happy_light.admin.probe import ProbeResult

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


class _Prober:
    """Asks the running server through its unix socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def announce(self, word: str) -> None:
        from happy_light.admin import client
        from happy_light.admin.probe import Probe

        client.call(self._settings, "POST", "/admin/api/probes", Probe(word), answer=Success)

    def result(self, word: str) -> ProbeResult:
        from happy_light.admin import client
        from happy_light.admin.probe import ProbeResult

        return client.call(self._settings, "GET", f"/admin/api/probes/{word}", answer=ProbeResult)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print what was found; end the process with 1 if there are problems. Raises OperatorError."""
    from happy_light.admin import client, doctor_local, doctor_network

    if not settings.data_dir.is_dir():
        raise OperatorError(f"There is no data folder {settings.data_dir}; choose it with --data-dir.")
    connection = client.connect(settings)
    if connection is not None:
        connection.close()
    prober = None if connection is None else _Prober(settings)
    found = [*doctor_local.check(settings), *doctor_network.check(settings, prober)]
    lines = []
    for finding in found:
        lines.append(f"{_MARKS[finding.level]} {finding.name}: {finding.text}")
        if finding.cure:
            lines.append(f"          {finding.cure}")
    problems = sum(finding.level == "problem" for finding in found)
    lines.append(f"\n{problems} problem{'' if problems == 1 else 's'}." if problems else "\nNo problems.")
    output.show(arguments, found, "\n".join(lines))
    if problems:
        sys.exit(1)


command = Command(
    name="doctor",
    help="look for what is wrong, and print what to do about it (exit 1: problems)",
    run=run,
    add=add_json,
    all_flags=True,
)
