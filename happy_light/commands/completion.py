"""`completion`: print a script that completes commands, flags and values in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from happy_light import config
from happy_light.commands.command import Command
from happy_light.config import Settings, setting_types

_SHELLS = ("bash", "zsh", "fish")
_HELP = """\
Print a script that completes commands, flags and values. Install it with one of:
  happy-server-light completion bash > ~/.local/share/bash-completion/completions/happy-server-light
  happy-server-light completion zsh > "${fpath[1]}/_happy-server-light"
  happy-server-light completion fish > ~/.config/fish/completions/happy-server-light.fish"""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _HELP
    parser.add_argument("shell", choices=_SHELLS, help="the shell to complete in")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    parser: argparse.ArgumentParser = arguments.parser()
    _describe_values(parser, shtab)
    print(shtab.complete(parser, shell=arguments.shell))


def _describe_values(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Tell shtab which arguments are files, folders, or one of some words."""
    rows = {row.option: row for row in config.SETTINGS}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in set(action.choices.values()):
                _describe_values(below, shtab)
            continue
        row = next((rows[option] for option in action.option_strings if option in rows), None)
        if row is not None and isinstance(row.parse, setting_types.OneOf):
            action.choices = row.parse.words
        elif row is not None and row.name.endswith("_dir"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif (row is not None and row.parse is setting_types.path) or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


command = Command(name="completion", help="print a script that completes commands in a shell", run=run, add=_add)
