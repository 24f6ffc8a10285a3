"""`doctor`: look for everything that can be wrong with a server, and print what to do about it."""

from __future__ import annotations

import argparse
import sys

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print what was found; end the process with 1 if there are problems. Raises OperatorError."""
    from happy_light.admin import doctor_local, doctor_network

    if not settings.data_dir.is_dir():
        raise OperatorError(f"There is no data folder {settings.data_dir}; choose it with --data-dir.")
    found = [*doctor_local.check(settings), *doctor_network.check(settings)]
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
