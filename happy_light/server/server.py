"""A server's life: open the database, bind, serve, close the sockets, close the database."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from happy_light import app, clock, data_dir, log_setup
from happy_light.admin import backup_schedule, clock_check, process_status, prune, server_id
from happy_light.admin.api import SOCKET_NAME, AdminApplication
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.bus import Bus, DeviceSignedOut, SharedBus, SignedOut
from happy_light.config import Settings
from happy_light.context import ServerContext, join_cluster
from happy_light.domains import auth
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.http import addresses
from happy_light.http.application import HttpApplication
from happy_light.server.binding import answers_unix, bind, bind_metrics, bind_unix
from happy_light.server.side_listener import SideListener
from happy_light.stack import hypercorn_server
from happy_light.stack.accepting import Room, connections_max
from happy_light.store import Database, engine_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from happy_light.server.tls_files import TlsFiles
    from happy_light.server.tunnel import Tunnel

log = logging.getLogger(__name__)

STOP_GRACE: Final = 3.0  # s that requests in flight have when the server stops; then their connections are aborted
ADMIN_RETRY: Final = 2.0  # s between attempts to take over the admin API of a data folder that several share
ABORT_MAX: Final = 0.5  # s after that until what still runs is cancelled


class Server:
    """One running server: `start`, `serve`, and `stop` from anywhere on its event loop."""

    def __init__(self, settings: Settings, made_secret: str | None = None) -> None:
        """`made_secret` becomes the master secret if there is none yet."""
        self.settings = settings
        self._made_secret = made_secret
        self._stopping = asyncio.Event()
        self._side_listeners: list[SideListener] = []
        self._tunnel: Tunnel | None = None
        self._admin_socket: Path | None = None
        self._tls_files: TlsFiles | None = None
        self.registration = settings.registration
        """Who may make an account: the setting, or what the operator chose in its place before the start."""
        self.metrics_url: str | None = None
        """Where the metrics are, once it serves them."""

    async def start(self) -> None:
        """Open everything and bind. Raises OperatorError; nothing is left open then."""
        settings = self.settings
        async with contextlib.AsyncExitStack() as opened:
            data_dir.create_private_dir(settings.data_dir)
            opened.enter_context(data_dir.lock_data_dir(settings, shared=settings.redis_url is not None))
            data_dir.refuse_unfinished(settings)
            self._config = hypercorn_server.settings_of(settings)
            if settings.tls_cert is not None and settings.tls_key is not None:
                from happy_light.server.tls_files import TlsFiles

                self._tls_files = TlsFiles(self._config, settings.tls_cert, settings.tls_key)
            self.socket = bind(settings.host, settings.port, settings.reuse_port)
            opened.callback(self.socket.close)
            self.host, self.port = self.socket.getsockname()[:2]
            bus = Bus() if settings.redis_url is None else SharedBus()
            self.database = Database(engine_of(settings, outbox=settings.redis_url is not None), bus)
            await self.database.open()  # before the secret, so that another program's folder gets no file of ours
            opened.push_async_callback(self.database.close)
            clock_check.start_clock(await self.database.read(clock_check.newest_time))
            opened.callback(clock.believe_computer)
            if settings.files_dir is not None:  # the one in the data folder is made when it is needed
                data_dir.create_private_dir(settings.files_dir, "files folder", "--files-dir")
            await self.database.read(master_secret.finish_replacement, settings.secret_file)
            await self.database.read(master_secret.check_not_lost, settings.master_secret, settings.secret_file)
            self.keys = Keys(
                master_secret.find_or_create(settings.master_secret, settings.secret_file, self._made_secret)
            )
            await self.keys.warm()
            await self.database.write_for((), master_secret.match_or_record, self.keys, settings.secret_file)
            if not await self.database.read(server_id.is_recorded):
                await self.database.write_for((), server_id.record)
            if settings.tunnel is not None:
                await self._open_tunnel(settings.tunnel, opened)
            chosen = await self.database.read(auth.registration_mode)
            self.registration = chosen or settings.registration
            self.context = ServerContext(self.settings, self.database, bus, self.keys, app.describe)
            self.context.stopping = self._stopping
            bus.subscribe(SignedOut, self._sign_out)
            bus.subscribe(DeviceSignedOut, self._sign_out_device)
            if settings.redis_url is not None and isinstance(bus, SharedBus):
                id = await self.database.read(server_id.read)
                cluster = await join_cluster(settings.redis_url, id, self.context, bus, self._drop_sockets)
                opened.push_async_callback(cluster.close)
            self._opened = opened.pop_all()

    async def _open_tunnel(self, name: str, opened: contextlib.AsyncExitStack) -> None:
        """Make the address of a tunnel the public URL. Raises OperatorError; returns early when the server stops."""
        from happy_light.server.tunnel import Tunnel

        if self.settings.public_url is not None:
            raise OperatorError("PUBLIC_URL and --tunnel are both set; the tunnel has an address of its own.")
        opening = asyncio.create_task(Tunnel.open(name, self.url))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening})
            return
        self._tunnel = opening.result()
        opened.push_async_callback(self._tunnel.close)
        origins = {**self.settings.origins, "public_url": "--tunnel"}
        self.settings = dataclasses.replace(self.settings, public_url=self._tunnel.url, origins=origins)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Answer requests until `stop`; then everything acknowledged is on disk and every socket closed."""
        self.app = app.App(self.context)
        self._config.bind = [f"fd://{self.socket.detach()}"]
        self._config.room = Room(
            connections_max(), self.settings.address_connections, self.context.limits.connection_key
        )
        self._config.room.make_room.append(self.app.live.connections.drop_stranger)
        self._serve_metrics()
        process_status.answer_others(self.context)
        jobs = [asyncio.create_task(self._serve_admin_api())]
        jobs += [asyncio.create_task(self._repeat(job, every)) for job, every in app.jobs().items()]
        jobs.append(asyncio.create_task(self._repeat(process_status.sample, process_status.STEP)))
        jobs.append(asyncio.create_task(prune.run_regularly(self.context)))
        jobs.append(asyncio.create_task(backup_schedule.run_regularly(self.context)))
        if self._tls_files is not None:
            jobs.append(asyncio.create_task(self._tls_files.watch()))
        asyncio.get_running_loop().call_soon(ready)
        self.context.serving, self.context.listens_at = True, (self.host, self.port)
        if self.context.web_app.compressed is not None:
            self.context.web_app.compressed.start()
        serving = asyncio.create_task(hypercorn_server.serve(self.app, self._config, self._until_stop))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.gather(*(listener.stop() for listener in self._side_listeners))
        if self._admin_socket is not None:
            self._admin_socket.unlink(missing_ok=True)
        await asyncio.wait({serving}, timeout=STOP_GRACE)
        for job in jobs:
            job.cancel()
        if not serving.done():
            log.warning("aborting %d connections that did not end in time", len(self._config.transports))
            for transport in list(self._config.transports):
                transport.abort()
            await asyncio.wait({serving}, timeout=ABORT_MAX)
        ended = serving.done()
        serving.cancel()
        try:
            await self.context.close()
        finally:
            await self.close()  # whatever happens: an open database keeps the process alive
        if ended:
            serving.result()

    async def _serve_admin_api(self) -> None:
        """Listen for commands, as soon as no other process on this data folder does.

        A server without this socket works, so a failure is a warning.
        """
        path = self.settings.data_dir / SOCKET_NAME
        while True:
            if self.settings.redis_url is None or not answers_unix(path):
                break
            await asyncio.sleep(ADMIN_RETRY)
        try:
            listener = bind_unix(path)
        except OSError as error:
            log.warning("%s cannot be made (%s); commands will not reach this server", path, error.strerror)
        else:
            self._admin_socket = path
            self._listen_beside(AdminApplication(self.context), listener)

    def _serve_metrics(self) -> None:
        """Listen for Prometheus if the settings say so. A port that is taken is a warning."""
        settings = self.settings
        if not settings.metrics_enabled:
            return
        from happy_light.admin import metrics

        try:
            listener = bind_metrics(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            log.warning(
                "no metrics: METRICS_PORT %d of %s cannot be used (%s); choose another, or set METRICS_ENABLED=false",
                settings.metrics_port, settings.metrics_host, error.strerror,
            )  # fmt: skip
            return
        host = f"[{settings.metrics_host}]" if ":" in settings.metrics_host else settings.metrics_host
        self.metrics_url = f"http://{host}:{listener.getsockname()[1]}/metrics"
        self._listen_beside(HttpApplication(self.context, metrics.routes), listener)

    def _listen_beside(self, application: ASGIApp, listener: socket.socket) -> None:
        side_listener = SideListener(self.settings, application, listener)
        side_listener.start()
        self._side_listeners.append(side_listener)

    async def close(self) -> None:
        """Close what `start` opened, for a server that was started and is not to `serve`; `serve` does it itself."""
        await self._opened.aclose()

    def _sign_out(self, message: SignedOut) -> None:
        self.keys.tokens.forget(message.account_id)
        self._drop_sockets(message.account_id)

    def _sign_out_device(self, message: DeviceSignedOut) -> None:
        self.keys.tokens.forget(message.account_id, message.device_id)
        if message.device_id is None:
            self._drop_sockets(message.account_id)  # those of the other devices come back by themselves
            return
        log.info("account %s: device %s is signed out", message.account_id, message.device_id)
        if self.context.serving:
            self.app.live.sign_out_device(message.account_id, message.device_id)

    def _drop_sockets(self, account_id: str) -> None:
        """Close the sockets of an account, which are to begin anew."""
        if self.context.serving:
            self.app.live.sign_out(account_id)

    async def _until_stop(self) -> None:
        await self._stopping.wait()
        self.context.presence.stopping = True
        await self.app.live.close()

    def reload(self) -> None:
        """Read the certificate again and open the log file again."""
        log_setup.reopen()
        if self._tls_files is not None:
            self._tls_files.reload()

    def abort(self) -> None:
        """End what would outlive a process that exits at once."""
        if self._tunnel is not None:
            self._tunnel.kill()

    def stop(self) -> None:
        """End `serve`, at once if it has not begun."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def url(self) -> str:
        """The URL at which this computer reaches the server."""
        return addresses.url(self.settings, addresses.reachable(self.host)[0], self.port)

    async def _repeat(self, job: Callable[[ServerContext], Awaitable[None]], every: float) -> None:
        """Run `job` every so many seconds; a failure is logged and the next run comes as planned."""
        while True:
            await asyncio.sleep(every)
            try:
                await job(self.context)
            except ServiceUnavailable as error:
                log.error("job %s: %s", getattr(job, "__name__", job), error)
            except Exception:
                log.exception("job %s", getattr(job, "__name__", job))
