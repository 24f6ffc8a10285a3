"""The command line: which commands there are, what they share, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from happy_light import __version__, config
from happy_light.commands import migrate, serve
from happy_light.errors import StartError

COMMANDS = (serve, migrate)


def main(argv: Sequence[str] | None = None) -> None:
    """`happy-server-light …`; ends the process with 0, or 2 for what the caller has to change."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(config.load(os.environ, vars(arguments)), arguments)
    except StartError as error:
        print(f"happy-server-light: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="happy-server-light", description="A Happy server in one process. Without a command it serves."
    )
    top.add_argument("--version", action="version", version=f"happy-server-light {__version__}")
    _common(top)
    serve.add(top)
    top.set_defaults(run=serve.run)
    commands = top.add_subparsers(title="commands", metavar="")
    for command in COMMANDS:
        below = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        _common(below)
        command.add(below)
        below.set_defaults(run=command.run)
    return top


def _common(below: argparse.ArgumentParser) -> None:
    # SUPPRESS, so that a flag before the command is not overwritten by the command's own default.
    below.add_argument("--data-dir", default=argparse.SUPPRESS, help="data folder (default ~/.happy/server-light)")
