"""`admin`: print a link that signs in to the admin page, and open it where there is a browser."""

from __future__ import annotations

import argparse
import os
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from happy_light.commands import output
from happy_light.commands.arguments import add_json
from happy_light.commands.command import Command
from happy_light.config import Settings

if TYPE_CHECKING:
    from happy_light.admin.page_sign_in import Link

_FILE: Final = "open-admin-page.html"


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-browser", action="store_true", help="only print the link")
    add_json(parser)


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print a link to the page. Raises OperatorError."""
    from happy_light.admin import client
    from happy_light.admin.page_sign_in import Link

    link = client.call(settings, "POST", "/admin/api/links", answer=Link)
    output.show(arguments, link, _text(link))
    if not arguments.no_browser and "json" not in arguments and sys.stdout.isatty() and _has_browser():
        _open(link.urls[0], settings.data_dir / _FILE)


def _text(link: Link) -> str:
    first, *others = link.urls
    lines = ["Open this link to sign in to the admin page. It works once, for 10 minutes:", "", f"  {first}"]
    if others:
        lines += ["", "The same link at the other addresses of this server:", "", *(f"  {url}" for url in others)]
    return "\n".join(lines)


def _has_browser() -> bool:
    """Return whether a window of a browser would be seen by who runs this command."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def _open(url: str, file: Path) -> None:
    """Open the link by way of a private file: every user of this computer sees the command line of a browser."""
    import webbrowser

    from happy_light.atomic_write import write_atomic

    page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(url)}">'
    write_atomic(file, page.encode())
    webbrowser.open(file.as_uri())


command = Command(
    name="admin", help="print a link that signs in to the admin page, and open it in a browser", run=run, add=_add
)
