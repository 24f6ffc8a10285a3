"""`config`: every setting, its value and where it came from."""

from __future__ import annotations

import argparse

from happy_light import config
from happy_light.config import Settings

NAME = "config"
HELP = "show every setting, its value and where it came from"
ALL_FLAGS = True


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command, besides the settings."""
    parser.add_argument("--json", action="store_true", help="for scripts: a list of {name, env, value, origin}")
    parser.add_argument("--markdown", action="store_true", help="the table of all settings, for documentation")


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Prints them, secrets masked."""
    if arguments.markdown:
        print(config.table(), end="")
    elif arguments.json:
        from happy_light import wire

        print(wire.encode([_entry(row, settings) for row in config.SETTINGS]).decode())
    else:
        print_table(settings)


def _entry(row: config.Row, settings: Settings) -> dict[str, str | None]:
    value = getattr(settings, row.name)
    text = None if value is None else config.shown(row, value)
    return {"name": row.name, "env": row.env[0], "value": text, "origin": settings.origins[row.name]}


def print_table(settings: Settings) -> None:
    """For people: key in the file, variable, value, origin; what somebody set is marked, since one looks for that."""
    rows = [
        (row, config.shown(row, getattr(settings, row.name)), settings.origins[row.name]) for row in config.SETTINGS
    ]
    names, variables = max(len(row.name) for row, _, _ in rows), max(len(row.env[0]) for row, _, _ in rows)
    width = max(len(value) for _, value, origin in rows if origin != config.DEFAULT or len(value) < 40)
    group = ""
    for row, value, origin in rows:
        if row.group != group:
            group = row.group
            print(f"{group}:")
        mark = " " if origin == config.DEFAULT else "*"
        print(f"{mark} {row.name:{names}}  {row.env[0]:{variables}}  {value:{width}}  {origin}")
