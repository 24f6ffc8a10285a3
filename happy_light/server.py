"""Runs a server: open the store, bind, serve, close the sockets, close the store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from happy_light import app, data_dir
from happy_light.admin import prune
from happy_light.admin.context import AdminContext
from happy_light.admin.control import Control
from happy_light.admin.metrics import Metrics
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.bus import Bus
from happy_light.config import Settings
from happy_light.context import ServerContext
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.http import addresses
from happy_light.stack import hypercorn_server
from happy_light.store import Database

log = logging.getLogger(__name__)

STOP_GRACE = 3.0  # s that requests under way get to end when the server stops; then their connections are cut off
CUT_MAX = 0.5  # s after that until what still runs is cancelled
GARBAGE = 20_000  # objects made before the next look for cycles


class Server:
    """One running server: `start`, `serve`, and `stop` from anywhere on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Opens everything and binds. Raises StartError; nothing is left open then."""
        settings = self.settings
        async with contextlib.AsyncExitStack() as opened:
            data_dir.create_private_dir(settings.data_dir)
            opened.enter_context(data_dir.lock_data_dir(settings))
            self._config = hypercorn_server.settings_of(settings)
            self.socket = bind(settings.host, settings.port)
            opened.callback(self.socket.close)
            bus = Bus()
            self.database = Database(settings.database, bus)
            await self.database.open()  # before the secret, so that another program's folder gets no file of ours
            opened.push_async_callback(self.database.close)
            if settings.files_dir is not None:  # the one in the data folder is made when it is needed
                data_dir.create_private_dir(settings.files_dir, "files folder", "--files-dir")
            self.keys = Keys(master_secret.find_or_create(settings.master_secret, settings.secret_file))
            await self.keys.warm()
            await self.database.write_for((), master_secret.match_or_record, self.keys, settings.secret_file)
            self.context = ServerContext(settings, self.database, bus, self.keys, app.describe)
            self._opened = opened.pop_all()
        self.host, self.port = self.socket.getsockname()[:2]

    async def serve(self, ready: Callable[[], None]) -> None:
        """Answers until `stop`; then everything acknowledged is on disk and every socket closed."""
        self.app = app.App(self.context)
        self._config.bind = [f"fd://{self.socket.detach()}"]
        admin = AdminContext(self.settings, self.database, self.context, self._sign_out)
        control, metrics = Control(admin), Metrics(self.context)
        await control.open()
        await metrics.open()
        jobs = [asyncio.create_task(self._repeat(job, every)) for job, every in app.jobs().items()]
        jobs.append(asyncio.create_task(prune.regularly(admin)))
        asyncio.get_running_loop().call_soon(ready)
        serving = asyncio.create_task(hypercorn_server.serve(self.app, self._config, self._until_stop))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await metrics.close()
        await control.close()
        await asyncio.wait({serving}, timeout=STOP_GRACE)
        for job in jobs:
            job.cancel()
        if not serving.done():
            log.warning("connections that did not end in time are cut off")
            for transport in list(self._config.transports):
                transport.abort()
            await asyncio.wait({serving}, timeout=CUT_MAX)
        ended = serving.done()
        serving.cancel()
        try:
            await self.context.close()
        finally:
            await self.close()  # whatever happens: an open database keeps the process alive
        if ended:
            serving.result()

    async def close(self) -> None:
        """Closes what `start` opened, for a server that was started and is not to `serve`; `serve` does it itself."""
        await self._opened.aclose()

    def _sign_out(self, account_id: str) -> None:
        self.keys.tokens.forget(account_id)
        self.app.live.sign_out(account_id)

    async def _until_stop(self) -> None:
        await self._stopping.wait()
        self.context.presence.stopping = True
        await self.app.live.close()

    def stop(self) -> None:
        """Ends `serve`, at once if it has not begun."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def url(self) -> str:
        """Where this computer reaches the server."""
        return addresses.url(self.settings, addresses.reachable(self.host)[0], self.port)

    async def _repeat(self, job: Callable[[ServerContext], Awaitable[None]], every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await job(self.context)
            except ServiceUnavailable as error:
                log.error("job %s: %s", getattr(job, "__name__", job), error)
            except Exception:
                log.exception("job %s", getattr(job, "__name__", job))


def report(server: Server, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs what asyncio tells of its own: all but connections cut off by their client, and what a stop cancels."""
    error = context.get("exception")
    by_client = "transport" in context and isinstance(error, ConnectionError | ssl.SSLError)
    by_stop = server.stopping and isinstance(error, asyncio.CancelledError)
    if not by_client and not by_stop:
        loop.default_exception_handler(context)


def run(settings: Settings, ready: Callable[[Server], None], cut: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or SIGINT. Raises StartError.

    `cut` is called when a second signal ends the process at once.
    """

    async def main() -> None:
        server = Server(settings)
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if server.stopping:
                cut()
                os._exit(1)
            notify("STOPPING=1")
            server.stop()

        def begun() -> None:
            notify("READY=1")
            ready(server)

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, asked)
        loop.set_exception_handler(functools.partial(report, server))
        await server.start()
        # Little of what a request makes is cyclic: looking for it every 700 objects cost a fifth of a loaded server.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE, 20, 50)
        try:
            if not server.stopping:
                await server.serve(begun)
        finally:  # an open store keeps the process alive, whatever failed
            await server.close()

    runner: Callable[[Any], Any] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    runner(main())


def notify(state: str) -> None:
    """Tells systemd, if it started this process and wants to know (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":  # Linux's abstract names are written with NUL
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


# --------------------------------------------------------------------------------------- the parts
def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OperatorError(f"HOST is {host!r}, which is no address of this computer: {error.strerror}.") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(hypercorn_server.BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} of {host} is taken; stop what uses it, or choose another with --port (0: any)."
        elif error.errno == errno.EACCES:
            text = f"Port {port} needs more rights; choose one above 1023 with --port."
        else:
            text = f"HOST {host!r} and port {port} cannot be bound: {error.strerror}."
        raise OperatorError(text) from error
    listener.setblocking(False)
    return listener
