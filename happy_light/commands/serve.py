"""`serve`: run the server until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from happy_light import config, log_setup
from happy_light.commands.command import Command
from happy_light.config import Settings
from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from pathlib import Path

    from happy_light.server import Server


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments beside the settings."""
    no = argparse.SUPPRESS
    parser.add_argument("--quiet", action="store_true", default=no, help="print nothing, log warnings and errors only")
    parser.add_argument("--open", action="store_true", default=no, help="open the server's page in the browser")
    parser.add_argument(
        "--ephemeral", action="store_true", default=no,
        help="for tests: a temporary folder, a free port, URL=… on the first line; leaves nothing behind",
    )  # fmt: skip


def run(settings: Settings, arguments: argparse.Namespace) -> None:
    """Serve. Raises OperatorError."""
    # Until the server handles signals itself there is nothing to finish: exit, and without a traceback.
    for name in (signal.SIGTERM, signal.SIGINT, *_unless_ignored(signal.SIGHUP)):
        signal.signal(name, lambda *_: sys.exit(0))
    given = vars(arguments)
    quiet = "quiet" in given
    log_setup.configure(settings.log_level, settings.log_format, quiet, settings.log_file)

    def ready(server: Server) -> None:
        with contextlib.suppress(OSError):  # the reader or the terminal is gone
            if "ephemeral" in given:
                print(f"URL={server.url}", flush=True)
            if not quiet:
                from happy_light.commands.banner import print_banner

                print_banner(server)
        if "open" in given:
            _open(server.url)

    if "ephemeral" not in given:
        _serve(settings, ready)
        return
    import shutil
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="happy-server-light-") as folder:
        _serve(ephemeral(Path(folder), given), ready, lambda: shutil.rmtree(folder, ignore_errors=True))


def _serve(settings: Settings, ready: Callable[[Server], None], clean_up: Callable[[], None] = lambda: None) -> None:
    """Serve. What takes longest at a start is done side by side: a key is derived while the server is imported."""
    from happy_light.auth import derivation, master_secret

    secret = master_secret.likely(settings.master_secret, settings.secret_file)
    derivation.begin(secret, derivation.TOKENS)
    from happy_light.stack.deferred import deferring

    with deferring():
        from happy_light.server import process

    process.run(settings, ready, clean_up, secret)


def _unless_ignored(name: signal.Signals) -> tuple[signal.Signals, ...]:
    return () if signal.getsignal(name) == signal.SIG_IGN else (name,)


def ephemeral(folder: Path, flags: Mapping[str, Any]) -> Settings:
    """Return settings of a server that keeps everything in `folder` and uses free ports.

    Environment and configuration files do not count, so that it is the same on every computer. Raises OperatorError.
    """
    for name in ("data_dir", "files_dir", "database_url"):
        if name in flags:
            raise OperatorError(f"--{name.replace('_', '-')} cannot go with --ephemeral, which leaves nothing behind.")
    return config.load({}, {"port": "0", "metrics_port": "0", **flags, "data_dir": str(folder)}, folder / "none")


def _open(url: str) -> None:
    """Show the page; on a thread, since some browsers only return when they are closed."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


command = Command(name="serve", help="run the server (as without a command)", run=run, add=add, all_flags=True)
