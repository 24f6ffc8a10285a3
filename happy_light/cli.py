"""The command line: arguments, what people read, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from happy_light import __version__, config
from happy_light.errors import StartError


def main(argv: Sequence[str] | None = None) -> None:
    """`happy-server-light …`; ends the process with 0, or 2 for what the caller has to change."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except StartError as error:
        print(f"happy-server-light: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="happy-server-light", description="A Happy server in one process. Without a command it serves."
    )
    parser.add_argument("--version", action="version", version=f"happy-server-light {__version__}")
    _serving(parser)
    parser.set_defaults(run=serve)
    commands = parser.add_subparsers(title="commands", metavar="")
    command = commands.add_parser("serve", help="run the server (as without a command)")
    _serving(command)
    command = commands.add_parser("migrate", help="bring the database to this version's schema, and stop")
    _data(command)
    command.set_defaults(run=migrate)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS, so that a flag before the command is not overwritten by the command's own default.
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, help="data folder (default ~/.happy/server-light)")


def _serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=argparse.SUPPRESS, help="bind address (default 127.0.0.1)")
    parser.add_argument("--port", default=argparse.SUPPRESS, help="port (default 3005; 0 picks a free one)")
    _data(parser)


def _settings(arguments: argparse.Namespace) -> config.Settings:
    return config.load(os.environ, vars(arguments))


def serve(arguments: argparse.Namespace) -> None:
    """Runs the server until it is told to stop."""
    settings = _settings(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("happy_light.socketio", "happy_light.engineio", "happy_light.hypercorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from happy_light import server

    server.run(settings, lambda running: _tell(running.settings, running.port))


def _tell(settings: config.Settings, port: int) -> None:
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
    print("\n".join(lines), flush=True)


def migrate(arguments: argparse.Namespace) -> None:
    """Only brings the database up to date; launchers call it before `serve`."""
    from happy_light import server, store

    settings = _settings(arguments)
    server.make_folder(settings.data_dir)
    held = server.lock(settings.data_dir)
    try:
        store.prepare(settings.database)
    finally:
        held.close()
    print(f"{settings.database} is up to date (schema {store.SCHEMA_VERSION}).")
