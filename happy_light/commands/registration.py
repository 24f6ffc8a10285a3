"""`registration`: who may make an account, and a window of time for everybody."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from happy_light.commands import output
from happy_light.config import Settings, setting_types
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from happy_light.admin.registration import Registration

NAME = "registration"
HELP = "show who may make an account, open a window for everybody"


def add(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    parser.add_argument(
        "what", nargs="?", choices=("show", "open", "close"), default="show",
        help="show what is in force (as without a word), open a window for everybody, close it again",
    )  # fmt: skip
    parser.add_argument("--for", dest="window", type=_duration, metavar="TIME", help="with open: 10m, 2h, at most 30d")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _duration(text: str) -> int:
    try:
        return setting_types.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} should be {error}") from None


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Does it, in the running server if there is one. Raises StartError."""
    from happy_light.admin import control
    from happy_light.admin.context import Nothing
    from happy_light.admin.registration import Window

    if arguments.what == "open" and arguments.window is None:
        raise OperatorError("A window needs its length, like: registration open --for 10m")
    if arguments.what != "open" and arguments.window is not None:
        raise OperatorError(f"--for is the length of a window; it goes with `registration open`, not {arguments.what}.")
    if arguments.what in ("open", "close"):
        seconds = arguments.window if arguments.what == "open" else 0
        state = control.ask(settings, "registration.open", Window(seconds))
    else:
        state = control.ask(settings, "registration.show", Nothing())
    output.show(arguments, state, _text(state))


def _text(state: Registration) -> str:
    meaning = {"open": "anybody may make an account", "first": "only the first account", "closed": "no new accounts"}
    lines = [f"Setting: {state.setting} ({meaning[state.setting]})"]
    if state.open_until is not None:
        lines.append(f"Open for everybody until {output.day(state.open_until)}")
    lines += [f"Let in: {fingerprint}" for fingerprint in state.allowed]
    lines.append("A new account can be made now." if state.accepts else "No other new account can be made now.")
    return "\n".join(lines)
