"""The process of a server: event loop, signals, garbage collection, and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from happy_light.config import Settings
from happy_light.server.server import Server
from happy_light.stack.accepting import raise_handle_limit
from happy_light.store.sqlite import memory

GC_THRESHOLD: Final = 20_000  # objects allocated before the next search for cycles


def run(
    settings: Settings,
    ready: Callable[[Server], None],
    clean_up: Callable[[], None] = lambda: None,
    made_secret: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises OperatorError.

    `ready` is called once requests are answered; `clean_up` before a second signal ends the process at once.
    `made_secret` becomes the master secret if there is none yet.
    """
    raise_handle_limit()
    if settings.postgres is None:
        memory.stop_counting()
    runner: Callable[[Any], Any] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    runner(_main(Server(settings, made_secret), ready, clean_up))


async def _main(server: Server, ready: Callable[[Server], None], clean_up: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.stopping:
            clean_up()
            server.abort()
            os._exit(1)
        notify_systemd("STOPPING=1")
        server.stop()

    def serving() -> None:
        notify_systemd("READY=1")
        ready(server)

    # nohup lets SIGHUP be ignored: such a server outlives its terminal.
    had_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def hang_up() -> None:
        if not had_terminal or _has_terminal():
            server.reload()
        elif not server.stopping:
            stop()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.set_exception_handler(functools.partial(report_exception, server))
    await server.start()
    # A request allocates little that is cyclic: a search every 700 objects cost a fifth of a loaded server's time.
    gc.freeze()  # without a search before it: a start leaves 5 objects in cycles, and to find them takes 25 ms
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        if not server.stopping:
            await server.serve(serving)
    finally:  # an open database keeps the process alive, whatever failed
        await server.close()


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def report_exception(server: Server, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio reports, except connections that a client reset and what a stop cancels."""
    error = context.get("exception")
    by_client = "transport" in context and isinstance(error, ConnectionError | ssl.SSLError)
    by_stop = server.stopping and isinstance(error, asyncio.CancelledError)
    if not by_client and not by_stop:
        loop.default_exception_handler(context)


def notify_systemd(state: str) -> None:
    """Send a state such as READY=1 to systemd if it started this process with Type=notify (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":  # Linux's abstract names begin with NUL
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())
