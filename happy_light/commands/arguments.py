"""Arguments that several commands have, and the types of their values."""

from __future__ import annotations

import argparse

from happy_light.config import setting_types


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json. Without it the attribute is missing, so that a subcommand does not undo its group's flag."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def duration(text: str) -> int:
    """Parse a time like 10m or 90d into s."""
    try:
        return setting_types.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} should be {error}") from None


def positive(text: str) -> int:
    """Parse a number from 1."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} should be a number from 1")
    return int(text)
