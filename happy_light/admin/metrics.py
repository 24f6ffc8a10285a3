"""Metrics for Prometheus: GET /metrics on a port of its own, rendered when it is requested.

Names and labels are those of the original server where it has them. Its label `client`, whose values clients choose
freely, is left out so that the number of series stays bounded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from starlette.responses import Response

from happy_light.admin import stats
from happy_light.context import ServerContext
from happy_light.counters import BOUNDS, Timing
from happy_light.http.request import Request
from happy_light.http.router import Route

if TYPE_CHECKING:
    from prometheus_client import Metric


async def get(request: Request[None, None]) -> Response:
    """Answer in the newest text format that the request accepts."""
    return Response(*await render(request.context, request.header(b"accept") or ""))


async def render(context: ServerContext, accept: str) -> tuple[bytes, int, dict[str, str]]:
    """Return all metrics in a format of `accept`: body, status, and headers."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    records = await context.database.row_counts(stats.TABLES)
    size = await context.database.read(stats.disk, context.database)

    class Snapshot(Collector):
        def collect(self) -> Iterable[Metric]:
            return itertools.chain(
                _traffic(context), _storage(context, records, size), _backups(context), _cluster(context)
            )

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot())
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), 200, {"content-type": content_type}


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

    yield GaugeMetricFamily("event_loop_tasks", "Number of asyncio tasks", value=len(asyncio.all_tasks()))
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

    calls = CounterMetricFamily("rpc_calls_total", "RPC calls by result", labels=["result"])
    for result, count in counters.calls.items():
        calls.add_metric([result], count)
    yield calls


def _cluster(context: ServerContext) -> Iterator[Metric]:
    """Yield what this process exchanges with the others of the server; nothing if it is the only one."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    cluster = context.cluster
    if cluster is None:
        return
    yield GaugeMetricFamily(
        "cluster_redis_connected", "Whether Redis is connected", value=float(cluster.link.is_connected)
    )
    updates = cluster.updates
    yield CounterMetricFamily(
        "cluster_hints_total", "Updates of other processes that Redis announced", value=updates.hints
    )
    text = "Updates that no announcement brought in time and that were read from the database"
    yield CounterMetricFamily("cluster_updates_healed_total", text, value=updates.sequencer.healed)
    delays = HistogramMetricFamily(
        "cluster_update_delay_seconds", "Time that an update waited for an earlier one, in seconds"
    )
    delays.add_metric([], _buckets(updates.delays), updates.delays.seconds)
    yield delays
    calls = HistogramMetricFamily(
        "cluster_call_duration_seconds", "Duration of calls to sockets of other processes in seconds"
    )
    calls.add_metric([], _buckets(cluster.calls.durations), cluster.calls.durations.seconds)
    yield calls


def _backups(context: ServerContext) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    last, success = context.backups.last, context.backups.last_success
    if last is not None:
        text = "Whether the last scheduled backup succeeded (1) or failed (0)"
        yield GaugeMetricFamily("backup_last_result", text, value=float(last.ok))
    if success is not None:
        text = "When the last scheduled backup succeeded, in seconds since the epoch"
        yield GaugeMetricFamily("backup_last_success_timestamp_seconds", text, value=success.at / 1000)


def _storage(context: ServerContext, records: dict[str, int], size: stats.Disk) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    table = GaugeMetricFamily("database_records_total", "Total number of records in database tables", labels=["table"])
    for name, count in records.items():
        table.add_metric([name], count)
    yield table
    disk = GaugeMetricFamily(
        "database_bytes", "Bytes of the database file, of its write-ahead log, and of free pages", labels=["part"]
    )
    for part, count in (("file", size.database), ("log", size.log), ("free", size.free)):
        disk.add_metric([part], count)
    yield disk
    database = context.database
    yield GaugeMetricFamily("database_writes_waiting", "Writes in the queue", value=database.waiting)
    yield CounterMetricFamily("database_writes_total", "Committed writes", value=database.writes)
    commits = HistogramMetricFamily(
        "database_commit_duration_seconds", "Duration of commits in seconds, the statements of their writes included"
    )
    commits.add_metric([], _buckets(database.commits), database.commits.seconds)
    yield commits
    if context.settings.bucket is not None:
        text = "Files and prefixes that are still to be deleted from the bucket"
        yield GaugeMetricFamily("bucket_deletions_waiting", text, value=context.blobs.deletions_waiting)


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(timing.buckets)), strict=True))


routes = [Route("GET", "/metrics", get, answer=Annotated[str, "text/plain"], public=True)]
