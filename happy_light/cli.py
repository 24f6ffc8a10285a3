"""The command line: parsers built from the commands, errors, exit codes."""

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
    completion,
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
from happy_light.commands.command import Command
from happy_light.errors import OperatorError

PROGRAM = "happy-server-light"
COMMANDS: tuple[Command, ...] = tuple(
    module.command
    for module in (
        serve, migrate, config_command, health, systemd, accounts, registration, backup, restore, doctor,
        stats, prune, import_, export, completion,
    )
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run `happy-server-light …`. Exits with 0; 1 for a command's "no"; 2 for what the caller has to change."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that commands can clean up
    os.umask(0o077)  # files are for their own user
    try:
        arguments.run(config.load(os.environ, vars(arguments)), arguments)
    except BrokenPipeError:
        pass  # the reader, like `head`, has read enough
    except OperatorError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a folder that this user may not read, a disk that is gone
        if error.filename is None:
            raise
        print(f"{PROGRAM}: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # else Python prints an error and exits with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their arguments."""
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [command] [--flag value …]",
        description="A Happy server in one process. Without a command it serves.",
        epilog="Each flag is also an environment variable (in brackets) and a key of happy-server-light.toml, in the "
        "data folder or the user's configuration folder. Secrets have no flag. `config` shows the values in force.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_subcommands(top, COMMANDS, PROGRAM, "command", required=False)
    serve.add(top)
    _add_flags(top, all_flags=True)
    top.set_defaults(run=serve.run, parser=parser)
    return top


def _add_subcommands(
    parent: argparse.ArgumentParser, commands: Sequence[Command], prog: str, dest: str, *, required: bool
) -> None:
    below = parent.add_subparsers(title="commands", metavar="command", dest=dest, prog=prog, required=required)
    for command in commands:
        child = below.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        command.add(child)
        _add_flags(child, command.all_flags)
        if command.run is not None:
            child.set_defaults(run=command.run)
        if command.subcommands:
            missing = command.run is None
            _add_subcommands(child, command.subcommands, f"{prog} {command.name}", "subcommand", required=missing)


def _add_flags(target: argparse.ArgumentParser, all_flags: bool) -> None:
    """Add the settings as flags: all, or those that every command has."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for row in config.SETTINGS:
        if row.secret or not (all_flags or row.everywhere):
            continue
        group = groups.get(row.group) or groups.setdefault(row.group, target.add_argument_group(row.group))
        # SUPPRESS, so that a flag before the command is not overwritten by the command's own default.
        text = f"{row.help} [{row.env[0]}, {row.shown}]".replace("%", "%%")
        group.add_argument(row.option, default=argparse.SUPPRESS, help=text, metavar=row.metavar)
