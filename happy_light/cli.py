"""The command line: parsers built from the commands, errors, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from happy_light import __version__, config, ownership
from happy_light.commands import serve
from happy_light.commands.command import Command
from happy_light.config.names import nearest
from happy_light.errors import OperatorError, ServiceUnavailable

PROGRAM = "happy-server-light"


def main(argv: Sequence[str] | None = None) -> None:
    """Run `happy-server-light …`. Exits with 0; 1 for a command's "no"; 2 for what the caller has to change."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parse(given)
    except UsageError as error:
        print(f"{PROGRAM}: {error.explain(given)}", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that commands can clean up
    os.umask(0o077)  # files are for their own user
    try:
        settings = config.load(os.environ, vars(arguments))
        with ownership.kept(settings.data_dir, [settings.files]):
            arguments.run(settings, arguments)
    except BrokenPipeError:
        pass  # the reader, like `head`, has read enough
    except OperatorError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
    except ServiceUnavailable as error:  # of a database that a start or a command cannot use
        print(f"{PROGRAM}: {error}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a folder that this user may not read, a disk that is gone
        if error.filename is None:
            raise
        print(f"{PROGRAM}: {error.filename} cannot be used: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        import sqlite3

        if not isinstance(error, sqlite3.Error):
            raise
        print(f"{PROGRAM}: The database cannot be used ({error}); `{PROGRAM} doctor` shows more.", file=sys.stderr)
        sys.exit(2)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # the reader or the terminal is gone; else Python prints an error and exits with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """Return the arguments. Raises UsageError.

    Without a command, the parsers and modules of commands are left out: they take a tenth of the CPU of a start.
    """
    if (not given or given[0].startswith("-")) and not {"-h", "--help"}.intersection(given):
        with contextlib.suppress(UsageError):  # which the parser with all commands explains
            return parser(with_commands=False).parse_args(given)
    return parser().parse_args(given)


class UsageError(Exception):
    """The command line does not fit the parser `parser`; the text is argparse's."""

    def __init__(self, parser: argparse.ArgumentParser, text: str) -> None:
        super().__init__(text)
        self.parser = parser

    def explain(self, given: Sequence[str]) -> str:
        """Return what is wrong with the arguments, with the flag or command that is most like a misspelt one."""
        flags = frozenset(_flags(parser()))
        words = given[: given.index("--")] if "--" in given else given
        unknown = next((word for word in words if word.startswith("--") and word.partition("=")[0] not in flags), None)
        if unknown is not None:
            name = unknown.partition("=")[0]
            return f"{name} is no flag{nearest(name, flags) or f'; `{PROGRAM} --help` lists them'}"
        commands = _subparsers(self.parser)
        wrong = re.search("invalid choice: '([^']*)'", str(self))
        if commands and wrong:
            others = f"; there are {', '.join(commands)}"
            return f"{wrong[1]} is no command{nearest(wrong[1], commands) or others}"
        return f"{self}; `{self.parser.prog} --help` explains it"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, so that they can be explained."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(self, message)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands below this one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every flag of the parser and of the commands below it."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
    for below in _subparsers(parser).values():
        yield from _flags(below)


def parser(with_commands: bool = True) -> argparse.ArgumentParser:
    """Return the parser of the flags, and of all commands and their arguments."""
    top = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [command] [--flag value …]",
        description="A Happy server in one process. Without a command it serves.",
        epilog="Each flag is also an environment variable (in brackets) and a key of happy-server-light.toml, in the "
        "data folder or the user's configuration folder. Secrets have no flag. `config` shows the values in force.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    if with_commands:
        _add_subcommands(top, commands(), PROGRAM, "command", required=False)
    serve.add(top)
    _add_flags(top, all_flags=True)
    top.set_defaults(run=serve.run, parser=parser)
    return top


def commands() -> list[Command]:
    """Return every command, in the order of the help."""
    from happy_light.commands import (
        accounts,
        admin,
        backup,
        completion,
        config,
        doctor,
        export,
        files,
        health,
        import_,
        migrate,
        prune,
        registration,
        restore,
        secret,
        stats,
        systemd,
    )

    modules = (
        serve, migrate, config, health, systemd, accounts, registration, admin, backup, restore, secret, doctor,
        stats, prune, import_, export, files, completion,
    )  # fmt: skip
    return [module.command for module in modules]


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
