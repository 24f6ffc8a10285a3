"""`config`: print every setting, its value and where it came from."""

from __future__ import annotations

import argparse

from happy_light import config
from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings


def _add(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table of all settings for documentation")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the settings, secrets masked."""
    if arguments.markdown:
        print(config.markdown_table(), end="")
    else:
        output.show(arguments, config.entries(settings), _table(settings))


def _table(settings: Settings) -> str:
    """Return key, variable, value and origin of each setting; those that are not the default are marked."""
    rows = [
        (row, config.display(row, getattr(settings, row.name)), settings.origins[row.name]) for row in config.SETTINGS
    ]
    names, variables = max(len(row.name) for row, _, _ in rows), max(len(row.env[0]) for row, _, _ in rows)
    width = max(len(value) for _, value, origin in rows if origin != config.DEFAULT or len(value) < 40)
    lines, group = [], ""
    for row, value, origin in rows:
        if row.group != group:
            group = row.group
            lines.append(f"{group}:")
        mark = " " if origin == config.DEFAULT else "*"
        lines.append(f"{mark} {row.name:{names}}  {row.env[0]:{variables}}  {value:{width}}  {origin}")
    return "\n".join(lines)


command = Command(
    name="config", help="show every setting, its value and where it came from", run=run, add=_add, all_flags=True
)
