"""What the parts of one server share: settings, database, bus, keys, clients, and the state of each domain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from happy_light.auth.device_activity import DeviceActivity
from happy_light.auth.keys import Keys
from happy_light.blobs import Blobs, blobs_of
from happy_light.bus import Bus, SharedBus
from happy_light.clients import ClientDirectory
from happy_light.config import RedisUrl, Settings
from happy_light.counters import Counters
from happy_light.domains.backup_state import BackupState
from happy_light.domains.client_log import ClientLog
from happy_light.domains.docs.documents import Documents
from happy_light.domains.doctor_state import DoctorState
from happy_light.domains.health_check import HealthCheck
from happy_light.domains.presence.tracker import PresenceTracker
from happy_light.domains.probes import Probes
from happy_light.domains.rpc.registry import RpcRegistry
from happy_light.domains.upload_rate import UploadRate
from happy_light.errors import TOO_MANY_PICTURES, TOO_MANY_UPLOADS, OperatorError, ServiceUnavailable
from happy_light.http.limits import Limits, Rates
from happy_light.http.recent_answers import RecentAnswers
from happy_light.http_client import HttpClient
from happy_light.store import Database
from happy_light.ui.web_app_config import WebApp

if TYPE_CHECKING:
    from happy_light.cluster.cluster import Cluster

log = logging.getLogger(__name__)

STOP_GRACE: Final = 1.0  # s that deletions of files have when the server stops
COMMAND_GRACE: Final = 600.0  # s that they have at the end of a command


class ServerContext:
    """The parts of one server. Endpoints and socket handlers get it; the state classes in it never see it.

    `describe` returns the OpenAPI document of the application (`app.describe`).
    """

    def __init__(
        self, settings: Settings, database: Database, bus: Bus, keys: Keys, describe: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.settings = settings
        self.database = database
        self.bus = bus
        self.keys = keys
        self.clients = ClientDirectory(settings.recovery_window)
        self.counters = Counters()
        self.cluster: Cluster | None = None
        """This process's part of a server of several processes."""
        self.serving = False
        """Set while a server answers requests; false for a command that works on the data folder by itself."""
        self.listens_at: tuple[str, int] | None = None
        """Address and port that a server is bound to."""
        self.limits = Limits(settings)
        self.answers = RecentAnswers()
        self.stopping = asyncio.Event()
        """Set when the server stops; answers that go on for ever end then."""
        self.admin_attempts = Rates()
        """Sign-ins to the admin page."""
        self.admin_streams = 0
        """Event streams of the admin page."""
        self.doctor = DoctorState()
        self.blobs: Blobs = blobs_of(settings)
        self.http_client = HttpClient()
        self.presence = PresenceTracker(settings, database, bus, self.clients)
        self.devices = DeviceActivity(database, keys.tokens, self.clients)
        self.rpc = RpcRegistry(settings, self.clients, bus)
        self.attachment_rate = UploadRate("attachments", TOO_MANY_UPLOADS)
        self.project_picture_rate = UploadRate("project-pictures", TOO_MANY_UPLOADS)
        self.session_picture_rate = UploadRate("session-pictures", TOO_MANY_PICTURES)
        self.client_log = ClientLog(settings.data_dir / "clients.log")
        self.probes = Probes()
        self.backups = BackupState()
        self.health = HealthCheck(database, {} if settings.bucket is None else {"bucket": self.blobs.check})
        self.documents = Documents(describe)
        self.web_app = WebApp(settings)

    async def close(self) -> None:
        """Write what is only in memory to the database and close connections; call it before the database closes."""
        try:
            await self.presence.close()
            await self.devices.flush(everything=True)
        except ServiceUnavailable as error:
            log.error("heartbeats and activity of devices cannot be written: %s", error)
        await self.http_client.close()
        if self.web_app.compressed is not None:
            await asyncio.to_thread(self.web_app.compressed.stop)
        await self.blobs.close(STOP_GRACE if self.serving else COMMAND_GRACE)


async def join_cluster(
    url: RedisUrl, server: str, context: ServerContext, bus: SharedBus, drop: Callable[[str], None]
) -> Cluster:
    """Make this process one of several of the server with the id `server`; `drop` closes the sockets of an account.

    Raises OperatorError if the library of Redis is not installed.
    """
    try:
        from happy_light.cluster.cluster import Cluster
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise OperatorError(
            "REDIS_URL needs a library that is not installed; install it with: pip install 'happy-server-light[full]'."
        ) from None
    clients, window = context.clients, context.settings.recovery_window
    cluster = Cluster(url, server, bus, context.database, clients, context.keys.tokens, drop, window)
    await cluster.start()
    context.cluster = clients.others = cluster
    context.health.parts["redis"] = cluster.check
    clients.recovery = cluster.recovery
    for rate in (context.attachment_rate, context.project_picture_rate, context.session_picture_rate):
        rate.shared = cluster.count_up
    return cluster
