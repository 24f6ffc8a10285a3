"""Runs a server: open the store, bind, serve, close the sockets, close the store.

The only file that knows Hypercorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.protocol.ws_stream
from hypercorn.config import Config

from happy_light import app, keys
from happy_light.bus import Bus
from happy_light.config import Settings
from happy_light.errors import StartError
from happy_light.house import House
from happy_light.keys import Keys
from happy_light.store import Rx, Store, Tx

log = logging.getLogger(__name__)

STOP_MAX = 4.0  # s that a stop may take before what is left is cut off
BACKLOG = 1024


class Server:
    """One running server: `start`, `serve`, and `stop` from anywhere on its event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Opens everything and binds. Raises StartError, and has touched nothing then."""
        settings = self.settings
        make_folder(settings.data_dir)
        self._lock = lock(settings.data_dir)
        try:
            self.keys = Keys(keys.master_secret(settings.master_secret, settings.secret_file))
            self.socket = bind(settings.host, settings.port)
            try:
                bus = Bus()
                self.store = Store(settings.database, bus)
                warm = asyncio.ensure_future(self.keys.warm())
                await self.store.open()
                await warm
                self.house = House(settings, self.store, bus, self.keys)
                await self._check_secret()
            except BaseException:
                self.socket.close()
                raise
        except BaseException:
            self._lock.close()
            raise
        self.port: int = self.socket.getsockname()[1]

    async def _check_secret(self) -> None:
        value = self.keys.check_value()
        try:
            known = await self.store.read(_secret_check)
            if known is None:
                await self.store.write(_remember_secret, value)
            elif known != value:
                raise StartError(
                    f"The master secret is not the one that {self.settings.database} was made with; with it "
                    "everyone would be signed out and vendor tokens unreadable. Put the old secret back "
                    f"(HANDY_MASTER_SECRET or {self.settings.secret_file})."
                )
        except BaseException:
            await self.store.close()
            raise

    async def serve(self, ready: Callable[[], None]) -> None:
        """Answers until `stop`; then everything acknowledged is on disk and every socket closed."""
        self.app = app.App(self.house)
        no_deflate()
        config = Config()
        config.bind = [f"fd://{self.socket.detach()}"]
        config.accesslog = None
        config.errorlog = logging.getLogger("happy_light.hypercorn")
        config.include_server_header = False
        config.keep_alive_timeout = 75  # s; axios and proxies keep connections for a minute
        config.keep_alive_max_requests = 10**9
        config.backlog = BACKLOG
        config.graceful_timeout = STOP_MAX / 2
        jobs = [asyncio.create_task(self._repeat(job, every)) for job, every in app.jobs().items()]
        asyncio.get_running_loop().call_soon(ready)
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(self.app, config, shutdown_trigger=self._until_stop)  # type: ignore[arg-type]
        )
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.wait({serving}, timeout=STOP_MAX)
        for job in jobs:
            job.cancel()
        if not serving.done():
            log.warning("connections that did not end in time are cut off")
            serving.cancel()
        await app.close(self.house)
        await self.store.close()
        self._lock.close()
        if serving.done() and not serving.cancelled():
            serving.result()

    async def _until_stop(self) -> None:
        await self._stopping.wait()
        self.house.closing = True
        await self.app.live.close()

    def stop(self) -> None:
        """Ends `serve`."""
        self._stopping.set()

    async def _repeat(self, job: Callable[[House], Awaitable[None]], every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await job(self.house)
            except Exception:
                log.exception("job %s", getattr(job, "__name__", job))


def run(settings: Settings, ready: Callable[[Server], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once. Raises StartError."""

    async def main() -> None:
        server = Server(settings)
        await server.start()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if server._stopping.is_set():
                os._exit(1)
            server.stop()

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, asked)
        await server.serve(lambda: ready(server))

    runner: Callable[[Any], Any] = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    runner(main())


# --------------------------------------------------------------------------------------- the parts
def make_folder(folder: Path) -> None:
    """Creates the data folder, mode 0700. Raises StartError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise StartError(
            f"The data folder {folder} cannot be written: {error.strerror}. Choose another with --data-dir."
        ) from error


class Lock:
    """Held while a server runs on a folder."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def close(self) -> None:
        """Lets the folder go."""
        os.close(self._handle)


def lock(folder: Path) -> Lock:
    """Makes sure that no second server runs on the folder. Raises StartError with the other's pid."""
    import fcntl

    handle = os.open(folder / "server.pid", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise StartError(
            f"Another server (pid {pid}) runs on {folder}; stop it, or choose another folder with --data-dir."
        ) from error
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return Lock(handle)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StartError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"HOST is {host!r}, which is no address of this computer: {error.strerror}.") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} of {host} is taken; stop what uses it, or choose another with --port (0: any)."
        elif error.errno == errno.EACCES:
            text = f"Port {port} needs more rights; choose one above 1023 with --port."
        else:
            text = f"HOST {host!r} and port {port} cannot be bound: {error.strerror}."
        raise StartError(text) from error
    listener.setblocking(False)
    return listener


def no_deflate() -> None:
    """Hypercorn always agrees to permessage-deflate (its issue 307): 100 KB a connection, for ciphertext."""
    setattr(hypercorn.protocol.ws_stream, "server_extensions_handshake", lambda requested, supported: None)  # noqa: B010


def _secret_check(rx: Rx) -> str | None:
    row = rx.one("SELECT value FROM meta WHERE key = 'secret_check'")
    return None if row is None else row[0]


def _remember_secret(tx: Tx, value: str) -> None:
    tx.execute("INSERT INTO meta (key, value) VALUES ('secret_check', ?)", (value,))
