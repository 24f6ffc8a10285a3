"""`serve`: runs the server until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from happy_light import config, log_setup
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from pathlib import Path

    from happy_light.server import Server

NAME = "serve"
HELP = "run the server (as without a command)"
ALL_FLAGS = True


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command, besides the settings."""
    no = argparse.SUPPRESS
    parser.add_argument("--quiet", action="store_true", default=no, help="print nothing, log warnings and errors only")
    parser.add_argument("--open", action="store_true", default=no, help="open the server's page in the browser")
    parser.add_argument(
        "--ephemeral", action="store_true", default=no,
        help="for tests: a temporary folder, a free port, URL=… on the first line; leaves nothing behind",
    )  # fmt: skip


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Serves. Raises StartError."""
    # Until the server listens to signals itself there is nothing to finish: end, and without a traceback.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    with _no_clients():
        from happy_light import server
    from happy_light.commands.banner import welcome

    asked = vars(arguments)
    quiet = "quiet" in asked
    log_setup.configure(settings.log_level, settings.log_format, quiet)

    def ready(running: Server) -> None:
        with contextlib.suppress(BrokenPipeError):
            if "ephemeral" in asked:
                print(f"URL={running.url}", flush=True)
            if not quiet:
                welcome(running)
        if "open" in asked:
            _open(running.url)

    if "ephemeral" not in asked:
        server.run(settings, ready)
        return
    import shutil
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="happy-server-light-") as folder:
        server.run(ephemeral(Path(folder), asked), ready, lambda: shutil.rmtree(folder, ignore_errors=True))


@contextlib.contextmanager
def _no_clients() -> Iterator[None]:
    """The engine imports its clients, and these aiohttp and requests where they are installed: 0.3 s for nothing.

    Only in this process, which is a server and nothing else.
    """
    names = [name for name in ("aiohttp", "requests", "websocket") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def ephemeral(folder: Path, flags: Mapping[str, Any]) -> Settings:
    """Settings of a server that keeps everything in `folder` and takes no port that others use.

    Only flags count beside that, so that it is the same on every computer. Raises StartError.
    """
    for name in ("data_dir", "files_dir", "database_url"):
        if name in flags:
            raise OperatorError(f"--{name.replace('_', '-')} cannot go with --ephemeral, which leaves nothing behind.")
    return config.load({}, {"port": "0", "metrics_port": "0", **flags, "data_dir": str(folder)}, folder / "none")


def _open(url: str) -> None:
    """Shows the page; on a thread, since some browsers only return when they are closed."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
