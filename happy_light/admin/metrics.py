"""The server's numbers for Prometheus: GET /metrics on a port of its own, rendered when somebody asks.

Names and labels are those of the original server where it has them; the label `client`, which is whatever
clients say, is left out so that the number of series stays bounded.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from happy_light.admin import stats
from happy_light.context import ServerContext
from happy_light.counters import BOUNDS, Timing

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

_HEAD_MAX: Final = 8 * 1024  # bytes of a request
_PAUSE: Final = 5.0  # s that a scraper may take to ask and to read
_AT_ONCE: Final = 8


class Metrics:
    """The listener. `open`, then `close`."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._server: asyncio.Server | None = None
        self._under_way = 0

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return self._server.sockets[0].getsockname()[1] if self._server else None

    async def open(self) -> None:
        """Listens if the settings say so. A port that is taken is a warning: the server works without."""
        settings = self._context.settings
        if not settings.metrics_enabled:
            return
        try:
            self._server = await asyncio.start_server(
                self._connected, settings.metrics_host, settings.metrics_port, limit=_HEAD_MAX
            )
        except OSError as error:
            log.warning(
                "no metrics: METRICS_PORT %d of %s cannot be used (%s); choose another, or set METRICS_ENABLED=false",
                settings.metrics_port, settings.metrics_host, error.strerror,
            )  # fmt: skip
        else:
            log.info("metrics at http://%s:%d/metrics", settings.metrics_host, self.port)

    async def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._under_way += 1
        try:
            async with asyncio.timeout(_PAUSE):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head)
                writer.write(
                    b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                    % (status, kind, len(body), b"" if head.startswith(b"HEAD ") else body)
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._under_way -= 1
            writer.close()

    async def _answer(self, head: bytes) -> tuple[bytes, bytes, bytes]:
        """-> status line, content type, body"""
        plain = b"text/plain; charset=utf-8"
        words = head.split(b" ", 2)
        if words[0] not in (b"GET", b"HEAD") or len(words) < 3 or words[1].partition(b"?")[0] != b"/metrics":
            return b"404 Not Found", plain, b"GET /metrics\n"
        if self._under_way > _AT_ONCE:
            return b"503 Service Unavailable", plain, b"Too many at once\n"
        try:
            return b"200 OK", b"text/plain; version=0.0.4; charset=utf-8", await render(self._context)
        except Exception:
            log.exception("metrics")
            return b"500 Internal Server Error", plain, b"The server failed at it\n"


async def render(context: ServerContext) -> bytes:
    """All numbers in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.registry import Collector

    records = await context.database.read(stats.records)
    size = await context.database.read(stats.disk, context.database)

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return itertools.chain(_traffic(context), _storage(context, records, size))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _traffic(context: ServerContext) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    counters = context.counters
    labels = ["method", "route", "status", "client_type"]
    requests = CounterMetricFamily("http_requests_total", "Total number of HTTP requests", labels=labels)
    durations = HistogramMetricFamily(
        "http_request_duration_seconds", "HTTP request duration in seconds", labels=labels
    )
    for (method, route, status, client), timing in counters.requests.items():
        values = [method, route, str(status), client]
        requests.add_metric(values, timing.count)
        durations.add_metric(values, _buckets(timing), timing.seconds)
    yield requests
    yield durations

    sockets = GaugeMetricFamily(
        "websocket_connections_total", "Number of active WebSocket connections", labels=["type", "client_type"]
    )
    for (kind, client), clients in stats.sockets(context).items():
        sockets.add_metric([kind, client], len(clients))
    yield sockets

    yield GaugeMetricFamily("event_loop_tasks", "What is under way at once", value=len(asyncio.all_tasks()))
    events = CounterMetricFamily(
        "websocket_events_total", "Total WebSocket events received by type", labels=["event_type"]
    )
    for name, count in counters.events.items():
        events.add_metric([name], count)
    yield events
    for name, event in (("session_alive", "session-alive"), ("machine_alive", "machine-alive")):
        yield CounterMetricFamily(
            f"{name}_events_total", f"Total number of {event} events", value=counters.events.get(event, 0)
        )

    calls = CounterMetricFamily("rpc_calls_total", "RPC calls by how they ended", labels=["result"])
    for result, count in counters.calls.items():
        calls.add_metric([result], count)
    yield calls


def _storage(context: ServerContext, records: dict[str, int], size: stats.Disk) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    table = GaugeMetricFamily("database_records_total", "Total number of records in database tables", labels=["table"])
    for name, count in records.items():
        table.add_metric([name], count)
    yield table
    disk = GaugeMetricFamily("database_bytes", "Bytes of the database file, its log, and what is free", labels=["part"])
    for part, count in (("file", size.database), ("log", size.log), ("free", size.free)):
        disk.add_metric([part], count)
    yield disk
    store = context.database
    yield GaugeMetricFamily("database_writes_waiting", "Writes that wait for the writer", value=store.waiting)
    yield CounterMetricFamily("database_writes_total", "Writes that were committed", value=store.writes)
    commits = HistogramMetricFamily("database_commit_duration_seconds", "Commits and what they carried, in seconds")
    commits.add_metric([], _buckets(store.commits), store.commits.seconds)
    yield commits


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(timing.buckets)), strict=True))
