"""`serve`: runs the server until it is told to stop."""

from __future__ import annotations

import argparse
import logging

from happy_light import __version__
from happy_light.config import Settings

NAME = "serve"
HELP = "run the server (as without a command)"
ALL_FLAGS = True


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command, besides the settings."""


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Serves. Raises StartError."""
    from happy_light import server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("happy_light.socketio", "happy_light.engineio", "happy_light.hypercorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.run(settings, lambda running: print(welcome(running.settings, running.port), flush=True))


def welcome(settings: Settings, port: int) -> str:
    """What is printed once the server answers."""
    local = f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', '::', '') else settings.host}:{port}"  # noqa: S104
    url = settings.public_url or local
    lines = [
        f"happy-server-light {__version__} is ready",
        "",
        f"  Server   {local}",
        *([f"  Public   {settings.public_url}"] if settings.public_url else []),
        f"  Data     {settings.data_dir}",
        "",
        f"  CLI      HAPPY_SERVER_URL={url} happy",
        f"  App      Settings > Server: {url}",
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)
