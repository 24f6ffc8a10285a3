"""`secret`: replace the master secret."""

from __future__ import annotations

import argparse
import sys

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

_QUESTION = "Everybody is signed out: every phone, browser, terminal and daemon has to sign in again. Type yes: "


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_json(parser)


def rotate(settings: Settings, arguments: argparse.Namespace) -> None:
    """Replace the secret after a confirmation; end the process with 1 without one. Raises OperatorError."""
    from happy_light.admin import secret_rotation

    if not arguments.yes:
        if not sys.stdin.isatty():
            raise OperatorError("There is no terminal to confirm on; add --yes to replace the secret without asking.")
        print(_QUESTION, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() != "yes":
            print("Nothing was changed.", file=sys.stderr)
            sys.exit(1)
    done = secret_rotation.rotate(settings)
    text = (
        f"{done.secret_file} has a new master secret. {done.accounts} accounts are signed out; {done.resealed} vendor "
        f"tokens are sealed with the new secret"
    )
    text += f", {done.lost} could not be opened and are deleted: connect those vendors again." if done.lost else "."
    if settings.master_secret:
        text += "\nHANDY_MASTER_SECRET still has the old secret: remove it, or the server will not start."
    output.show(arguments, done, text)


command = Command(
    name="secret",
    help="replace the master secret",
    subcommands=(
        Command(
            name="rotate", help="make a new master secret and sign everybody out (the server must not run)",
            run=rotate, add=_add,
        ),
    ),
)  # fmt: skip
