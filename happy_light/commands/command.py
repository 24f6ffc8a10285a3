"""What a command consists of, as the command line builds its parsers from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import msgspec

from happy_light.config import Settings

Run = Callable[[Settings, argparse.Namespace], None]
"""Does the work of a command. Raises OperatorError; ends the process with 1 for a result that is a "no"."""


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command of `happy-server-light`, or a group of commands.

    `add` adds its arguments beside the settings. `all_flags`: every setting is a flag, not only those that all
    commands have. A group runs `run` without a subcommand; if that is None, a subcommand is required.
    """

    name: str
    help: str
    run: Run | None = None
    add: Callable[[argparse.ArgumentParser], None] = _no_arguments
    all_flags: bool = False
    subcommands: tuple[Command, ...] = ()
