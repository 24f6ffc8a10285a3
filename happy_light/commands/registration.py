"""`registration`: who may make an account, and a window of time for everybody."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from happy_light.commands import output
from happy_light.commands.arguments import add_json, duration
from happy_light.commands.command import Command
from happy_light.config import Settings

if TYPE_CHECKING:
    from happy_light.admin.registration import Registration

_WINDOW = "/window"
_DEFAULT = "default"
_MEANING = {"open": "anybody may make an account", "first": "only the first account", "closed": "no new accounts"}


def _add_open(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", dest="window", type=duration, metavar="TIME", required=True, help="how long: 10m, 2h, at most 30d"
    )
    add_json(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mode", choices=[*_MEANING, _DEFAULT], help=f"{_DEFAULT}: as the setting says")
    add_json(parser)


def show(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print who may make an account. Raises OperatorError."""
    _call(settings, arguments, "GET")


def open_window(settings: Settings, arguments: argparse.Namespace) -> None:
    """Let everybody make an account for some time. Raises OperatorError."""
    from happy_light.admin.registration import Window

    _call(settings, arguments, "POST", _WINDOW, Window(arguments.window))


def set_mode(settings: Settings, arguments: argparse.Namespace) -> None:
    """Choose who may make an account, in the place of the setting. Raises OperatorError."""
    from happy_light.admin.registration import Mode

    _call(settings, arguments, "PUT", "", Mode(None if arguments.mode == _DEFAULT else arguments.mode))


def close_window(settings: Settings, arguments: argparse.Namespace) -> None:
    """Close the window. Raises OperatorError."""
    _call(settings, arguments, "DELETE", _WINDOW)


def _call(settings: Settings, arguments: argparse.Namespace, method: str, action: str = "", body: Any = None) -> None:
    from happy_light.admin import client
    from happy_light.admin.registration import Registration

    state = client.call(settings, method, f"/admin/api/registration{action}", body, answer=Registration)
    output.show(arguments, state, _text(state))


def _text(state: Registration) -> str:
    lines = [f"Setting: {state.setting} ({_MEANING[state.setting]})"]
    if state.mode != state.setting:
        lines.append(f"Chosen in its place: {state.mode} ({_MEANING[state.mode]})")
    if state.open_until is not None:
        lines.append(f"Open for everybody until {output.day(state.open_until)}")
    lines += [f"Allowed key: {fingerprint}" for fingerprint in state.allowed]
    lines.append("A new account can be made now." if state.accepts else "No other new account can be made now.")
    return "\n".join(lines)


command = Command(
    name="registration",
    help="show who may make an account, open registration for some time",
    run=show,
    add=add_json,
    subcommands=(
        Command(name="show", help="show who may make an account (as without a subcommand)", run=show, add=add_json),
        Command(
            name="set", help="choose who may make an account, in the place of the setting", run=set_mode, add=_add_set
        ),
        Command(name="open", help="let everybody make an account for some time", run=open_window, add=_add_open),
        Command(name="close", help="end that time now", run=close_window, add=add_json),
    ),
)
