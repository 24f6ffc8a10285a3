"""`doctor`: looks for everything that can be wrong with a server, and says what to do about it."""

from __future__ import annotations

import argparse
import sys

from happy_light.commands import output
from happy_light.config import Settings
from happy_light.errors import OperatorError

NAME = "doctor"
HELP = "look for what is wrong, and say what to do about it (exit 1: problems)"
ALL_FLAGS = True
_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def add(parser: argparse.ArgumentParser) -> None:
    """How to print it."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Ends the process with 1 if there are problems. Raises StartError."""
    from happy_light.admin import doctor, network_doctor

    if not settings.data_dir.is_dir():
        raise OperatorError(f"There is no data folder {settings.data_dir}; choose it with --data-dir.")
    found = [*doctor.everything_here(settings), *network_doctor.everything_outside(settings)]
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
