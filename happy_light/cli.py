"""The command line: which commands there are, what they share, exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from happy_light import __version__, config
from happy_light.commands import (
    accounts,
    backup,
    doctor,
    export,
    health,
    import_,
    migrate,
    prune,
    registration,
    restore,
    serve,
    stats,
    systemd,
)
from happy_light.commands import config as config_command
from happy_light.errors import OperatorError

COMMANDS = (
    serve, migrate, config_command, health, systemd, accounts, registration, backup, restore, doctor,
    stats, prune, import_, export,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """`happy-server-light …`; ends the process with 0, or 2 for what the caller has to change."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that a command can clean up behind it
    os.umask(0o077)  # whatever a command makes is for its own user
    try:
        arguments.run(config.load(os.environ, vars(arguments)), arguments)
    except BrokenPipeError:
        pass  # who reads, like `head`, has read enough
    except OperatorError as error:
        print(f"happy-server-light: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a folder that this user may not look into, a disk that is gone
        if error.filename is None:
            raise
        print(f"happy-server-light: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # else Python says so, and makes the exit code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="happy-server-light",
        usage="happy-server-light [command] [--flag value …]",
        description="A Happy server in one process. Without a command it serves.",
        epilog="Each flag is also an environment variable (in brackets) and a key of happy-server-light.toml, in the "
        "data folder or the user's configuration folder. Secrets have no flag. `config` shows what is in force.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"happy-server-light {__version__}")
    commands = top.add_subparsers(title="commands", metavar="command", dest="command", prog="happy-server-light")
    for command in COMMANDS:
        below = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP, allow_abbrev=False)
        command.add(below)
        _flags(below, getattr(command, "ALL_FLAGS", False))
        below.set_defaults(run=command.run)
    serve.add(top)
    _flags(top, serve.ALL_FLAGS)
    top.set_defaults(run=serve.run)
    return top


def _flags(below: argparse.ArgumentParser, every: bool) -> None:
    """The settings as flags: all, or those that every command has."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for row in config.SETTINGS:
        if row.secret or not (every or row.everywhere):
            continue
        group = groups.get(row.group) or groups.setdefault(row.group, below.add_argument_group(row.group))
        # SUPPRESS, so that a flag before the command is not overwritten by the command's own default.
        text = f"{row.help} [{row.env[0]}, {row.shown}]".replace("%", "%%")
        group.add_argument(row.option, default=argparse.SUPPRESS, help=text, metavar=row.metavar)
